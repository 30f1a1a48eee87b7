//! Changes to the host's rules by others.

use crate::netlink::{NetlinkError, Socket};
use crate::nft;
use berth_sys::netns::{NetlinkOption, set_netlink_option};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::io::Errno;
use std::sync::Arc;

/// All changes to tables, <linux/netfilter/nfnetlink.h>.
const NFNLGRP_NFTABLES: u32 = 7;

/// Hears of changes to the host's rules by others: `nft flush ruleset`, a firewall service that restarts,
/// another engine that comes up.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    table: String,
}

/// What others did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Our table is gone, or we may have missed that.
    TableDeleted,
    /// A chain came or changed, or a rule went.
    Changed,
    Nothing,
}

impl Watch {
    pub fn open(table: &str) -> Result<Watch, NetlinkError> {
        let socket = Socket::open(Some(rustix::net::netlink::NETFILTER), 1 << (NFNLGRP_NFTABLES - 1))?;
        Ok(Watch { socket, table: table.to_owned() })
    }

    /// For [`super::firewall::Firewall::heard_by`].
    pub fn ear(&self) -> Result<Ear, NetlinkError> {
        let socket = self.socket.as_fd().try_clone_to_owned();
        let socket =
            socket.map_err(|error| NetlinkError::Open(Errno::from_io_error(&error).unwrap_or(Errno::MFILE)))?;
        Ok(Ear(Arc::new(socket)))
    }

    /// Blocks until notices came.
    pub fn wait(&mut self) -> Result<Notice, NetlinkError> {
        match self.socket.notices() {
            Ok(notices) if notices.iter().any(|notice| nft::tells_deletion(notice, &self.table)) => {
                Ok(Notice::TableDeleted)
            }
            Ok(notices) if notices.iter().any(nft::tells_foreign_change) => Ok(Notice::Changed),
            Ok(_) => Ok(Notice::Nothing),
            // The kernel had more to say than we read: look for ourselves.
            Err(NetlinkError::Receive(Errno::NOBUFS)) => Ok(Notice::TableDeleted),
            Err(error) => Err(error),
        }
    }
}

/// Whether a watch is told of anything at all.
#[derive(Debug, Clone)]
pub struct Ear(Arc<OwnedFd>);

/// The watch hears nothing until this is dropped.
#[derive(Debug)]
pub(crate) struct Covered<'a>(&'a Ear);

impl Ear {
    pub(crate) fn cover(&self) -> Result<Covered<'_>, NetlinkError> {
        self.join(NetlinkOption::DropMembership).map_err(NetlinkError::Open)?;
        Ok(Covered(self))
    }

    fn join(&self, how: NetlinkOption) -> Result<(), Errno> {
        set_netlink_option(self.0.as_fd(), how, NFNLGRP_NFTABLES as i32)
    }
}

impl Drop for Covered<'_> {
    fn drop(&mut self) {
        // It was a member, which needs nothing that it could lack now.
        self.0.join(NetlinkOption::AddMembership).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::{Firewall, Publication};
    use crate::nft::look;
    use berth_types::spec::Protocol;
    use std::net::Ipv4Addr;

    /// Ports that are an element each.
    fn ports(first: u16, count: u16) -> Publication {
        let (host, container) = (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(10, 0, 0, 2).into());
        Publication { protocol: Protocol::Tcp, host, host_port: first, container, container_port: 1, count }
    }

    fn notices(watch: &mut Watch) -> usize {
        let mut all = 0;
        while let Ok(true) = readable(watch) {
            all += watch.socket.notices().unwrap().len();
        }
        all
    }

    fn readable(watch: &Watch) -> Result<bool, Errno> {
        let mut wanted = [rustix::event::PollFd::new(&watch.socket, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(rustix::event::poll(&mut wanted, Some(&now))? > 0)
    }

    #[test]
    fn large_changes_are_made_unheard_and_what_others_did_meanwhile_is_put_back() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let inside = || {
            berth_sys::netns::unshare_network().unwrap();
            let mut watch = Watch::open("berth_heard").unwrap();
            let mut firewall = Firewall::open("berth_heard").unwrap();
            let elements = || look::elements(&mut Socket::netfilter().unwrap(), "berth_heard", "any4").unwrap();
            notices(&mut watch);
            firewall.publish(&[ports(1000, 600)], &[]).unwrap();
            assert!(notices(&mut watch) >= 600, "each is told to whoever listens");

            firewall.heard_by(watch.ear().unwrap());
            firewall.publish(&[ports(2000, 600)], &[]).unwrap();
            firewall.withdraw(&[ports(1000, 600)], &[]).unwrap();
            assert_eq!((notices(&mut watch), elements()), (0, 600));
            firewall.publish(&[ports(3000, 3)], &[]).unwrap();
            assert!(notices(&mut watch) > 0, "small ones are heard");

            let ear = watch.ear().unwrap();
            let covered = ear.cover().unwrap();
            look::delete_table(&mut Socket::netfilter().unwrap(), nft::FAMILY_INET, "berth_heard").unwrap();
            drop(covered);
            assert_eq!((notices(&mut watch), elements()), (0, 0));
            // Refused, since its table is gone; and so found out.
            firewall.publish(&[ports(4000, 600)], &[]).unwrap_err();
            assert_eq!(elements(), 603);
            firewall.publish(&[ports(4000, 600)], &[]).unwrap();
            assert_eq!(elements(), 1203);
            look::delete_table(&mut Socket::netfilter().unwrap(), nft::FAMILY_INET, "berth_heard").unwrap();
            // What was in it is told first.
            while watch.wait().unwrap() != Notice::TableDeleted {}
            notices(&mut watch);
            assert!(firewall.heal().unwrap() && !firewall.heal().unwrap());
            assert_eq!((notices(&mut watch), elements()), (0, 1203));
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
    }
}
