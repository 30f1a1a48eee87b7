//! Rows to aligned columns, or to whatever `--format` says.
//!
//! The alignment is Go's tabwriter as Docker sets it up: cells end at a tab, at least 10 wide, 3 spaces
//! apart, and the last cell of a line is not padded.

use crate::error::{CliError, Result};
use crate::template::Template;
use crate::value::Value;

const CELL_MIN: usize = 10;
const GAP: usize = 3;

/// Aligns tab-terminated cells. A column is as wide as the widest cell in consecutive lines that have it.
pub(crate) fn align(text: &str) -> String {
    align_with(text, CELL_MIN, GAP)
}

pub(crate) fn align_with(text: &str, cell_min: usize, gap: usize) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|l| l.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|l| vec![0; l.len()]).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut start = 0;
        while start < lines.len() {
            // Only cells that a tab ends belong to a column.
            let has = |i: usize| lines[i].len() > column + 1;
            if !has(start) {
                start += 1;
                continue;
            }
            let mut end = start;
            let mut width = cell_min;
            while end < lines.len() && has(end) {
                width = width.max(display_width(lines[end][column]) + gap);
                end += 1;
            }
            for row in &mut widths[start..end] {
                row[column] = width;
            }
            start = end;
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (i, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
        if i > 0 {
            out.push('\n');
        }
        for (j, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if j + 1 < cells.len() {
                out.extend(std::iter::repeat_n(' ', widths[j].saturating_sub(display_width(cell))));
            }
        }
    }
    out
}

fn display_width(s: &str) -> usize {
    s.chars().count()
}

/// The type whose field a template misses, where nobody said a better one.
const ROW: &str = "*formatter.ContainerContext";

const FAILING: &str = "failed to execute template: ";

fn read(template: &str) -> Result<Template> {
    Template::parse(template).map_err(|e| CliError::template("failed to parse template: ", e))
}

fn failed(error: crate::template::TemplateError, kind: &str) -> CliError {
    CliError::template(FAILING, error.about(kind))
}

/// How a list is to be printed.
pub(crate) struct Listing {
    template: Template,
    header: Option<String>,
    json: bool,
    kind: &'static str,
    failing: &'static str,
}

impl Listing {
    /// `format` is what the user gave (or the configured default); `standard` the table when it is
    /// empty or `table`; `quiet` the template of `-q`; `headers` the title of each placeholder.
    pub(crate) fn new(format: &str, standard: &str, quiet: Option<&str>, headers: &[(&str, &str)]) -> Result<Listing> {
        let format = if format.is_empty() { "table" } else { format };
        if format == "json" {
            return Ok(Listing {
                template: Template::parse("")?,
                header: None,
                json: true,
                kind: ROW,
                failing: FAILING,
            });
        }
        let (is_table, text) = match format.strip_prefix("table") {
            Some(rest) => (true, if rest.trim().is_empty() { standard } else { rest }),
            None => (false, format),
        };
        let (is_table, text) = match quiet {
            // A template of the user's own wins over -q, except where it is the plain table.
            Some(quiet) if is_table => (false, quiet),
            _ => (is_table, text),
        };
        let text = text.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n");
        let header = if is_table {
            let mut row: Vec<(String, Value)> =
                headers.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
            row.push(("Label".to_owned(), Value::Lookup(Vec::new())));
            let template = read(&label_headers(&text))?.into_header();
            Some(template.execute(&Value::Map(row)).map_err(|e| failed(e, ROW))?)
        } else {
            None
        };
        Ok(Listing { template: read(&text)?, header, json: false, kind: ROW, failing: FAILING })
    }

    /// Names the Go type of the rows, which an unknown field's message quotes.
    pub(crate) fn of(mut self, kind: &'static str) -> Listing {
        self.kind = kind;
        self
    }

    /// `stats` introduces a failing template in other words than lists do.
    pub(crate) fn failing(mut self, words: &'static str) -> Listing {
        self.failing = words;
        self
    }

    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.json || self.template.mentions(name)
    }

    pub(crate) fn render(&self, rows: &[Value]) -> Result<String> {
        let mut out = String::new();
        if self.json {
            for row in rows {
                out.push_str(&sorted_json(row));
                out.push('\n');
            }
            return Ok(out);
        }
        if let Some(header) = &self.header {
            out.push_str(header);
            out.push('\n');
        }
        for row in rows {
            out.push_str(
                &self.template.execute(row).map_err(|e| CliError::template(self.failing, e.about(self.kind)))?,
            );
            out.push('\n');
        }
        Ok(if self.header.is_some() { align(&out) } else { out })
    }
}

/// In a header row `{{.Label "com.example.team"}}` prints the label's last word, as Docker titles it.
fn label_headers(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("{{.Label \"") {
        out.push_str(&rest[..at]);
        let after = &rest[at + 10..];
        let Some(end) = after.find("\"}}") else { break };
        let last = after[..end].rsplit('.').next().unwrap_or_default();
        out.push_str(&last.replace(['-', '_'], " "));
        rest = &after[end + 3..];
    }
    out + rest
}

pub(crate) fn sorted_json(row: &Value) -> String {
    let mut fields: Vec<(String, Value)> =
        row.map().iter().filter(|(_, v)| !matches!(v, Value::Lookup(_))).cloned().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Map(fields).to_json()
}

/// Cuts to `max` characters with an ellipsis at the end, as tables do without `--no-trunc`.
pub(crate) fn ellipsis(s: &str, max: usize) -> String {
    if s.chars().count() <= max {
        return s.to_owned();
    }
    let mut out: String = s.chars().take(max.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// The first twelve digits of an id, without its algorithm.
pub(crate) fn short_id(id: &str) -> String {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_ten_wide_and_three_apart() {
        assert_eq!(
            align("A\tB\tC\nlonger-than-ten\tb\tc\n"),
            "A                 B         C\nlonger-than-ten   b         c\n"
        );
    }

    #[test]
    fn an_empty_cell_keeps_its_column() {
        assert_eq!(align("NAME\tPORTS\tEND\na\t\tz\n"), "NAME      PORTS     END\na                   z\n");
    }

    #[test]
    fn quiet_table_and_json_follow_docker() {
        let rows = [Value::Map(vec![("Z".into(), "1".into()), ("ID".into(), "abc".into())])];
        let headers = [("ID", "CONTAINER ID"), ("Z", "ZED")];
        let show = |format: &str, quiet| {
            Listing::new(format, "table {{.ID}}".trim_start_matches("table "), quiet, &headers)
                .unwrap()
                .render(&rows)
                .unwrap()
        };
        assert_eq!(show("", None), "CONTAINER ID\nabc\n");
        assert_eq!(show("", Some("{{.ID}}")), "abc\n");
        assert_eq!(show("json", None), "{\"ID\":\"abc\",\"Z\":\"1\"}\n");
        assert_eq!(show("{{.Z}}", None), "1\n");
        assert_eq!(show(r"table {{.ID}}\t{{.Z}}", None), "CONTAINER ID   ZED\nabc            1\n");
        assert_eq!(show("table {{upper .ID}}", None), "CONTAINER ID\nABC\n");
    }

    #[test]
    fn long_cells_end_in_an_ellipsis() {
        assert_eq!(ellipsis("abcdef", 4), "abc…");
        assert_eq!(ellipsis("abcd", 4), "abcd");
    }
}
