//! `vm vnc`: a machine's screen for a VNC viewer on this computer, through the engine's own connection.
//!
//! QEMU's own socket is in the machine's jail; the engine passes its bytes on to whoever may speak to the engine. What
//! listens here is open to this computer's users, so it is the loopback address or a socket file of the user's own.

use super::path_of;
use crate::app::App;
use crate::cli::Args;
use crate::client::hijack::Hijacked;
use crate::error::{CliError, Result};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use tokio::net::{TcpListener, UnixListener};

enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A viewer's connection, for blocking threads.
enum Viewer {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Viewer {
    fn try_clone(&self) -> std::io::Result<Viewer> {
        Ok(match self {
            Viewer::Tcp(stream) => Viewer::Tcp(stream.try_clone()?),
            Viewer::Unix(stream) => Viewer::Unix(stream.try_clone()?),
        })
    }

    fn close(&self) {
        // One that has closed already is what is wanted.
        match self {
            Viewer::Tcp(stream) => stream.shutdown(std::net::Shutdown::Both).ok(),
            Viewer::Unix(stream) => stream.shutdown(std::net::Shutdown::Both).ok(),
        };
    }
}

impl Read for Viewer {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Viewer::Tcp(stream) => stream.read(buffer),
            Viewer::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Viewer {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        match self {
            Viewer::Tcp(stream) => stream.write(data),
            Viewer::Unix(stream) => stream.write(data),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) async fn vnc(app: &'static App, args: Args) -> Result<u8> {
    let path = format!("{}/display", path_of(&args.words[0]));
    // A machine without a display is told of before anybody waits for a viewer.
    drop(app.client.hijack(&path, None).await?);
    let listen = args.text("listen");
    let failed = |cause| CliError::io(format!("cannot listen on {listen}"), cause);
    let (door, address) = if listen.starts_with('/') {
        let door = UnixListener::bind(listen).map_err(failed)?;
        std::fs::set_permissions(listen, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        (Door::Unix(door), listen.to_owned())
    } else {
        let door = TcpListener::bind(listen).await.map_err(failed)?;
        let address = door.local_addr().map_err(failed)?;
        (Door::Tcp(door), address.to_string())
    };
    app.line(&address)?;
    loop {
        let viewer = match &door {
            Door::Tcp(door) => Viewer::Tcp(door.accept().await.map_err(failed)?.0.into_std().map_err(failed)?),
            Door::Unix(door) => Viewer::Unix(door.accept().await.map_err(failed)?.0.into_std().map_err(failed)?),
        };
        match app.client.hijack(&path, None).await {
            Ok(display) => join(viewer, display).map_err(failed)?,
            Err(error) => {
                viewer.close();
                crate::report(app, &error).await;
                if error.status() == Some(404) {
                    return Ok(1);
                }
            }
        }
    }
}

/// Copies both ways until either side ends.
fn join(viewer: Viewer, display: Hijacked) -> std::io::Result<()> {
    let Hijacked { mut raw, early } = display;
    match &viewer {
        Viewer::Tcp(stream) => stream.set_nonblocking(false)?,
        Viewer::Unix(stream) => stream.set_nonblocking(false)?,
    }
    let (mut from, mut to) = (viewer.try_clone()?, viewer);
    let mut typed = raw.try_clone()?;
    std::thread::spawn(move || {
        // Ends are no errors here: a viewer is closed, a machine ends.
        std::io::copy(&mut from, &mut typed).ok();
        typed.half_close().ok();
    });
    std::thread::spawn(move || {
        to.write_all(&early).and_then(|()| std::io::copy(&mut raw, &mut to)).ok();
        to.close();
    });
    Ok(())
}
