//! Looking for repositories: the public registry's search, any other one's catalogue.

use crate::auth::{Credentials, Scopes};
use crate::client::Client;
use crate::http::Call;
use crate::retry::Tries;
use crate::{RegistryError, url};
use hyper::{Method, header};
use serde::Deserialize;

const PUBLIC: &str = "docker.io";
const PUBLIC_SEARCH: &str = "https://index.docker.io/v1/search";
/// An answer, and names that are looked through.
const BYTES_MAX: u64 = 8 << 20;
const NAMES_MAX: usize = 50_000;
const PAGES_MAX: usize = 500;

/// A repository that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Found {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub star_count: i64,
    #[serde(default)]
    pub is_official: bool,
}

impl Client {
    /// Repositories of the registry at `domain` whose names (and, at the public one, descriptions) have `term`.
    pub async fn search(
        &self,
        domain: &str,
        term: &str,
        limit: usize,
        credentials: &Credentials,
    ) -> Result<Vec<Found>, RegistryError> {
        if domain == PUBLIC {
            return self.search_public(term, limit, credentials).await;
        }
        #[derive(Deserialize)]
        struct Page {
            repositories: Option<Vec<String>>,
        }
        let endpoint = self.config().endpoints(domain, false).pop().expect("the registry itself is always an endpoint");
        let mut next = url::parse(&format!("{}/v2/_catalog?n=1000", self.base(&endpoint).await?))?;
        let (mut found, mut seen) = (Vec::new(), 0);
        for _ in 0..PAGES_MAX {
            let (body, link) = self.page(&next, credentials, &["registry:catalog:*".to_owned()].into()).await?;
            let page: Page = serde_json::from_slice(&body).map_err(|cause| damaged(domain, &cause))?;
            let names = page.repositories.unwrap_or_default();
            seen += names.len();
            let matching = names.into_iter().filter(|name| name.contains(term));
            found.extend(matching.map(|name| Found { name: format!("{domain}/{name}"), ..Found::default() }));
            match link {
                Some(link) if found.len() < limit && seen < NAMES_MAX => next = url::join(&next, &link)?,
                _ => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn search_public(
        &self,
        term: &str,
        limit: usize,
        credentials: &Credentials,
    ) -> Result<Vec<Found>, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            results: Option<Vec<Found>>,
        }
        let uri = url::with_query(&url::parse(PUBLIC_SEARCH)?, &[("q", term), ("n", &limit.to_string())])?;
        let (body, _) = self.page(&uri, credentials, &Scopes::new()).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|cause| damaged(PUBLIC, &cause))?;
        let mut results = answer.results.unwrap_or_default();
        results.truncate(limit);
        Ok(results)
    }

    /// A page of a list, and where the next one is.
    async fn page(
        &self,
        uri: &hyper::Uri,
        credentials: &Credentials,
        scopes: &Scopes,
    ) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let mut tries = Tries::new(self.config());
        loop {
            let asked = async {
                let answer = self.ask(Call::new(Method::GET, uri.clone()), credentials, scopes, None).await?;
                if !answer.status.is_success() {
                    return Err(answer.refusal().await);
                }
                let link = answer.header(&header::LINK).and_then(crate::client::next_link).map(str::to_owned);
                Ok((answer.bytes("the list of repositories", BYTES_MAX).await?, link))
            };
            match asked.await {
                Ok(page) => return Ok(page),
                Err(cause) => tries.again(cause).await?,
            }
        }
    }
}

fn damaged(domain: &str, cause: &serde_json::Error) -> RegistryError {
    RegistryError::Damaged { host: domain.to_owned(), what: "list of repositories".to_owned(), why: cause.to_string() }
}
