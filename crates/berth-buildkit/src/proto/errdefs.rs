//! What a failed build's status carries beside its text, so that a client shows the lines: JSON in an `Any`.

use super::Any;
use super::control::{Range, SourceInfo};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The place in the Dockerfile, as `errdefs.Source`.
pub fn source(info: &SourceInfo, ranges: &[Range]) -> Any {
    let position = |position: Option<super::control::Position>| {
        let position = position.unwrap_or_default();
        format!("{{\"line\":{},\"character\":{}}}", position.line, position.character)
    };
    let ranges: Vec<String> = ranges
        .iter()
        .map(|range| format!("{{\"start\":{},\"end\":{}}}", position(range.start), position(range.end)))
        .collect();
    let text = format!(
        "{{\"info\":{{\"filename\":{},\"data\":\"{}\",\"language\":{}}},\"ranges\":[{}]}}",
        quoted(&info.filename),
        STANDARD.encode(&info.data),
        quoted(&info.language),
        ranges.join(",")
    );
    detail("errdefs.Source", text)
}

/// The step that failed, as `errdefs.Vertex`.
pub fn vertex(digest: &str) -> Any {
    detail("errdefs.Vertex", format!("{{\"digest\":{}}}", quoted(digest)))
}

fn detail(name: &str, json: String) -> Any {
    Any { type_url: format!("github.com/moby/buildkit/{name}+json"), value: json.into_bytes() }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::super::control::Position;
    use super::*;

    #[test]
    fn a_place_is_json_as_go_reads_it() {
        let info = SourceInfo { filename: "a\"\n".to_owned(), data: b"FROM a".to_vec(), language: String::new() };
        let at = |line| Some(Position { line, character: 0 });
        let any = source(&info, &[Range { start: at(1), end: at(2) }]);
        assert_eq!(any.type_url, "github.com/moby/buildkit/errdefs.Source+json");
        let expected = "{\"info\":{\"filename\":\"a\\\"\\u000a\",\"data\":\"RlJPTSBh\",\"language\":\"\"},\"ranges\":\
            [{\"start\":{\"line\":1,\"character\":0},\"end\":{\"line\":2,\"character\":0}}]}";
        assert_eq!(String::from_utf8(any.value).unwrap(), expected);
    }
}
