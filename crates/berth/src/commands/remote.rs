//! `system dial-stdio`, the far end of `ssh://`, and `cert`, the certificates of `tcp://`.

use crate::app::App;
use crate::cli::Args;
use crate::client::endpoint::Address;
use crate::error::{CliError, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Moves bytes as they come: what waits in a buffer here is missing there.
fn pass(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count])?;
        to.flush()?;
    }
}

pub(crate) async fn dial_stdio(app: &'static App, _args: Args) -> Result<u8> {
    let failed = |e| CliError::io(format!("the connection to the engine at {} broke", app.client.endpoint), e);
    // Starts the engine, or says why there is none.
    drop(app.client.endpoint.open().await?);
    let input = |write: Box<dyn Write + Send>, close: Box<dyn FnOnce() + Send>| {
        std::thread::spawn(move || {
            // The engine's end of the connection tells what went wrong with it.
            drop(pass(io::stdin(), write));
            close();
        })
    };
    match &app.client.endpoint.address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address.as_str()).map_err(failed)?;
            let (write, end) = (stream.try_clone().map_err(failed)?, stream.try_clone().map_err(failed)?);
            input(Box::new(write), Box::new(move || drop(end.shutdown(Shutdown::Write))));
            pass(stream, io::stdout()).map_err(failed)?;
        }
        _ => {
            let stream: UnixStream = app.client.endpoint.bridged().map_err(failed)?;
            let (write, end) = (stream.try_clone().map_err(failed)?, stream.try_clone().map_err(failed)?);
            input(Box::new(write), Box::new(move || drop(end.shutdown(Shutdown::Write))));
            pass(stream, io::stdout()).map_err(failed)?;
        }
    }
    Ok(0)
}

/// A year and a month, as browsers and policies like it; `--days` says otherwise.
const DAYS: i64 = 397;
const DAYS_MAX: i64 = 3650;

fn signing(error: rcgen::Error) -> CliError {
    CliError::failed(format!("cannot make a certificate: {error}"))
}

fn params(name: &str, hosts: Vec<String>, days: i64) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts).map_err(signing)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let date = |in_days: i64| {
        let day = jiff::Zoned::now().date().saturating_add(jiff::Span::new().days(in_days));
        rcgen::date_time_ymd(i32::from(day.year()), day.month().unsigned_abs(), day.day().unsigned_abs())
    };
    (params.not_before, params.not_after) = (date(-1), date(days));
    Ok(params)
}

fn write(folder: &Path, name: &str, text: &str, mode: u32) -> Result<()> {
    let path = folder.join(name);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| CliError::io(format!("cannot write {}", path.display()), e))
}

/// `cert`: a CA, a certificate for the engine on these hosts, and one for its clients.
pub(crate) async fn cert(app: &'static App, args: Args) -> Result<u8> {
    let folder = Path::new(if args.text("dir").is_empty() { "." } else { args.text("dir") });
    let days = if args.changed("days") { args.int("days")? } else { DAYS };
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(args.because("days", args.text("days"), &format!("must be from 1 to {DAYS_MAX}")));
    }
    let failed = |e| CliError::io(format!("cannot write {}", folder.display()), e);
    std::fs::create_dir_all(folder).map_err(failed)?;
    let ca_key = KeyPair::generate().map_err(signing)?;
    let mut ca = params("berth CA", Vec::new(), days)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key).map_err(signing)?;
    let issuer = Issuer::from_params(&ca, &ca_key);
    let hosts: Vec<String> = args.words.iter().cloned().chain(["localhost".into(), "127.0.0.1".into()]).collect();
    write(folder, "ca.pem", &ca_certificate.pem(), 0o644)?;
    write(folder, "ca-key.pem", &ca_key.serialize_pem(), 0o600)?;
    for (name, prefix, hosts, usage) in [
        ("berth engine", "server-", hosts, ExtendedKeyUsagePurpose::ServerAuth),
        ("berth client", "", Vec::new(), ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate().map_err(signing)?;
        let mut params = params(name, hosts, days)?;
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &issuer).map_err(signing)?;
        write(folder, &format!("{prefix}cert.pem"), &certificate.pem(), 0o644)?;
        write(folder, &format!("{prefix}key.pem"), &key.serialize_pem(), 0o600)?;
    }
    let shown = folder.display();
    app.print(&format!(
        "Wrote ca.pem, server-cert.pem, server-key.pem, cert.pem, key.pem to {shown}; keep ca-key.pem away from the engine.\n\
         The engine:  berthd -H tcp://0.0.0.0:2376 --tlsverify --tlscacert ca.pem --tlscert server-cert.pem --tlskey server-key.pem\n\
         A client:    DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH={shown} DOCKER_HOST=tcp://HOST:2376 berth ps\n"
    ))?;
    Ok(0)
}
