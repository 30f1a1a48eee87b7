//! Base images: the engine's own, or pulled.

use super::Caller;
use super::elsewhere::Elsewhere;
use crate::Engine;
use crate::images::PullOptions;
use berth_build::platform::Platform;
use berth_build::{BaseImage, Images};
use berth_types::spec::Config;
use berth_types::{ErrorKind, ImageName, Result};
use futures_util::future::BoxFuture;

/// The engine's own images. Of others it says that nothing is known of them: a question pulls nothing.
pub(crate) struct Here<'a>(pub(crate) &'a Engine);

impl Images for Here<'_> {
    fn image<'a>(&'a self, name: &'a str, platform: &'a Platform, _: bool) -> BoxFuture<'a, Result<BaseImage>> {
        Box::pin(async move {
            match self.0.images().base(name) {
                Err(error) if error.kind == ErrorKind::NotFound && name.parse::<ImageName>().is_ok() => Ok(BaseImage {
                    id: None,
                    config: Config::default(),
                    platform: platform.clone(),
                    author: String::new(),
                    layers: Vec::new(),
                    history: Vec::new(),
                }),
                found => found,
            }
        })
    }
}

/// The image that a `FROM` names; pulled where it is missing, or where that was asked for.
pub(crate) async fn image(
    engine: &Engine,
    name: &str,
    platform: &Platform,
    pull: bool,
    elsewhere: &Elsewhere,
    caller: Option<&dyn Caller>,
) -> Result<BaseImage> {
    let found = engine.images().base(name);
    let missing = match &found {
        Err(error) => error.kind == ErrorKind::NotFound,
        Ok(_) => false,
    };
    let Ok(reference) = name.parse::<ImageName>() else { return found };
    if !missing && !pull {
        return found;
    }
    let credentials = elsewhere.credentials(&reference, caller).await?;
    let options = PullOptions { platform: Some(platform.to_string()), all_tags: false, credentials };
    let pulled = async {
        let mut stream = engine.images().pull(reference.or_latest(), options).await?;
        while let Some(message) = stream.next().await {
            message?;
        }
        engine.images().base(name)
    };
    pulled.await.map_err(|error| {
        let bare = name.split(':').next().unwrap_or(name);
        match bare {
            "debian" if missing && error.hint.is_none() => error.with_hint(format!("berth image bootstrap {name}")),
            _ => error,
        }
    })
}
