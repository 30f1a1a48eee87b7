//! A connection to an origin: addresses, proxy, TLS.

use crate::config::Config;
use crate::proxy::{self, Proxy};
use crate::tls::Tls;
use crate::url::Origin;
use crate::{ConnectError, RegistryError};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A way to the origin's HTTP server.
pub(crate) struct Connected {
    pub stream: Box<dyn Stream>,
    /// Plain HTTP through a proxy: requests carry the whole URL, and this for the proxy.
    pub through: Option<Proxy>,
}

pub(crate) async fn connect(
    config: &Config,
    tls: &Tls,
    to: &Origin,
    insecure: bool,
) -> Result<Connected, RegistryError> {
    let failed = |cause| RegistryError::Connect { host: to.shown(), cause };
    let seconds = config.connect_timeout.as_secs();
    let work = connect_now(config, tls, to, insecure);
    match tokio::time::timeout(config.connect_timeout, work).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed(ConnectError::Timeout(seconds))),
    }
}

async fn connect_now(config: &Config, tls: &Tls, to: &Origin, insecure: bool) -> Result<Connected, ConnectError> {
    let proxy = proxy::choose(&config.proxies, to);
    let each = config.connect_timeout / 3;
    let stream: Box<dyn Stream> = match &proxy {
        None => Box::new(dial(to, each).await?),
        Some(proxy) => {
            let stream = dial(&proxy.origin, each).await?;
            match proxy.origin.tls {
                true => {
                    encrypt(tls, Box::new(stream), &proxy.origin, config.is_insecure(&proxy.origin.shown())).await?
                }
                false => Box::new(stream),
            }
        }
    };
    match (to.tls, proxy) {
        (true, None) => Ok(Connected { stream: encrypt(tls, stream, to, insecure).await?, through: None }),
        (true, Some(proxy)) => {
            let mut stream = stream;
            proxy::tunnel(&mut stream, &proxy, to).await?;
            Ok(Connected { stream: encrypt(tls, stream, to, insecure).await?, through: None })
        }
        (false, through) => Ok(Connected { stream, through }),
    }
}

/// The first of the host's addresses that answers; each gets its share of the time.
async fn dial(to: &Origin, each: Duration) -> Result<TcpStream, ConnectError> {
    let addresses = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
    let addresses = addresses.map_err(|cause| ConnectError::Resolve(to.host.clone(), cause))?;
    let mut failed = ConnectError::NoAddress(to.host.clone());
    for address in addresses {
        match tokio::time::timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Requests are written whole: waiting for more would only delay them.
                stream.set_nodelay(true).map_err(|cause| ConnectError::Tcp(address.to_string(), cause))?;
                return Ok(stream);
            }
            Ok(Err(cause)) => failed = ConnectError::Tcp(address.to_string(), cause),
            Err(_) => failed = ConnectError::Tcp(address.to_string(), std::io::ErrorKind::TimedOut.into()),
        }
    }
    Err(failed)
}

async fn encrypt(
    tls: &Tls,
    stream: Box<dyn Stream>,
    to: &Origin,
    insecure: bool,
) -> Result<Box<dyn Stream>, ConnectError> {
    let mut names = vec![to.shown(), to.authority()];
    names.dedup();
    let config = tls.config(&names, insecure)?;
    let failed = |cause| ConnectError::Tls(to.shown(), tls.explain(&names, &to.host, cause));
    let name = ServerName::try_from(to.host.clone()).map_err(|cause| failed(std::io::Error::other(cause)))?;
    let connector = TlsConnector::from(Arc::clone(&config));
    Ok(Box::new(connector.connect(name, stream).await.map_err(failed)?))
}
