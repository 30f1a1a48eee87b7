//! How many bits a second pass an interface.
//!
//! ```text
//!  bits arrive ── tokens there? ── yes: sent, tokens taken        a bucket that fills at the rate (tc-tbf(8))
//!                              └── no: wait in the queue, or dropped where it is full
//! ```
//!
//! The kernel shapes what an interface sends. What is to be limited the other way is shaped where it is sent from: at the
//! far end of the pair. That loses less than refusing what has arrived already, and needs no device between.

use crate::netlink::{ACK, Batch, CREATE, NetlinkError, REPLACE};
use crate::route::Route;
use rustix::io::Errno;

// linux/rtnetlink.h, linux/pkt_sched.h
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const TC_H_ROOT: u32 = u32::MAX;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

/// Less than a telephone line carries: a guest would not get its first answer.
pub const BITS_PER_SECOND_MIN: u64 = 8_000;
/// Ten terabits.
pub const BITS_PER_SECOND_MAX: u64 = 10_000_000_000_000;

/// What passes at once after a pause: 10 ms of the rate. No less than some whole packets, or none would ever pass; no more than
/// the kernel takes in one number of nanoseconds.
const BURST_BYTES_MIN: u64 = 16 << 10;
const BURST_BYTES_MAX: u64 = 64 << 20;
/// What waits: 100 ms of the rate, and at least as much as a sender sends before it listens.
const QUEUE_BYTES_MIN: u64 = 64 << 10;

/// Limits of one network card, in bits a second as its owner sees them; 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bandwidth {
    pub in_bits_per_second: u64,
    pub out_bits_per_second: u64,
}

fn tcmsg(index: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[12..16].copy_from_slice(&TC_H_ROOT.to_ne_bytes());
    bytes
}

/// Burst and queue for a rate, in bytes.
fn room(bits_per_second: u64) -> (u64, u64) {
    let bytes_per_second = bits_per_second / 8;
    let burst = (bytes_per_second / 100).clamp(BURST_BYTES_MIN, BURST_BYTES_MAX);
    let queue = burst.saturating_add(bytes_per_second / 10).max(QUEUE_BYTES_MIN);
    (burst, queue)
}

/// `struct tc_tbf_qopt`: the rate is told in 64 bits and the burst in bytes beside it, so what stands here of them in
/// the units of older kernels stays empty.
fn tbf_qopt(bits_per_second: u64, queue: u32) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[1] = TC_LINKLAYER_ETHERNET;
    let rate = u32::try_from(bits_per_second / 8).unwrap_or(u32::MAX);
    bytes[8..12].copy_from_slice(&rate.to_ne_bytes());
    bytes[24..28].copy_from_slice(&queue.to_ne_bytes());
    bytes
}

fn limit(batch: &mut Batch, index: u32, bits_per_second: u64) {
    let (burst, queue) = room(bits_per_second);
    let number = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    batch.message(RTM_NEWQDISC, ACK | CREATE | REPLACE, &tcmsg(index), |a| {
        a.text(TCA_KIND, "tbf");
        a.nest(TCA_OPTIONS, |a| {
            a.bytes(TCA_TBF_PARMS, &tbf_qopt(bits_per_second, number(queue)));
            a.bytes(TCA_TBF_RATE64, &(bits_per_second / 8).to_ne_bytes());
            a.u32(TCA_TBF_BURST, number(burst));
        });
    });
}

/// What the interface sends from now on; 0: as much as it can. Packets on their way are kept.
pub(crate) fn set(route: &mut Route, index: u32, bits_per_second: u64) -> Result<(), NetlinkError> {
    let mut batch = Batch::default();
    match bits_per_second {
        0 => batch.message(RTM_DELQDISC, ACK, &tcmsg(index), |_| ()),
        bits => limit(&mut batch, index, bits),
    }
    match route.run(batch) {
        // It had no limit.
        Err(error) if bits_per_second == 0 && matches!(error.errno(), Some(Errno::NOENT | Errno::INVAL)) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_card_still_passes_whole_packets_and_a_fast_one_its_rate() {
        assert_eq!(room(BITS_PER_SECOND_MIN), (16 << 10, 64 << 10));
        assert_eq!(room(1_000_000_000), (1_250_000, 1_250_000 + 12_500_000));
        assert!(room(BITS_PER_SECOND_MAX).0 <= BURST_BYTES_MAX);
    }
}
