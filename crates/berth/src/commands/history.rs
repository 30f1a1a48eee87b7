//! `history`.

use super::archive::image_path;
use crate::app::App;
use crate::cli::Args;
use crate::error::Result;
use crate::table::{Listing, ellipsis, short_id};
use crate::units;
use crate::value::Value;

const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

pub(crate) async fn history(app: &'static App, args: Args) -> Result<u8> {
    super::images::one_platform(&args)?;
    let human = args.on("human");
    let no_trunc = args.on("no-trunc");
    let table = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
    let mut headers = HEADERS.to_vec();
    if !human {
        headers[1].1 = "CREATED AT";
    }
    let listing = Listing::new(args.text("format"), table, args.on("quiet").then_some("{{.ID}}"), &headers)?;
    let layers = app.client.get_value(&image_path(&args.words[0], "/history")).await?;
    let now = units::now_seconds();
    let rows: Vec<Value> = layers
        .list()
        .iter()
        .map(|l| {
            let created = l.get("Created").int();
            let at = jiff::Timestamp::from_second(created)
                .map(|t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
                .unwrap_or_default()
                .replace("+00:00", "Z");
            let since = match human {
                true if created <= 0 => "N/A".to_owned(),
                true => format!("{} ago", units::human_duration(now - created)),
                false => at.clone(),
            };
            let by = l.text("CreatedBy").replace('\t', " ");
            let id = if no_trunc { l.text("Id").to_owned() } else { short_id(l.text("Id")) };
            let size = l.get("Size");
            Value::Map(vec![
                ("ID".into(), id.into()),
                ("CreatedSince".into(), since.into()),
                ("CreatedAt".into(), at.into()),
                ("CreatedBy".into(), if no_trunc { by } else { ellipsis(&by, 45) }.into()),
                ("Size".into(), if human { units::human_size3(size.float()) } else { size.int().to_string() }.into()),
                ("Comment".into(), l.text("Comment").into()),
            ])
        })
        .collect();
    app.print(&listing.render(&rows)?)?;
    Ok(0)
}
