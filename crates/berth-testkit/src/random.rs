//! Moments and choices by a seed, so that a run can be played again as far as time can be.

/// xorshift64*: the same numbers for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).checked_rem(limit).unwrap_or(0)
    }

    /// Of `BERTH_SEED`, or another one every time; says which.
    pub fn of_this_run() -> Random {
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        let seed = setting("BERTH_SEED", now.map_or(1, |since| since.as_micros() as u64));
        println!("BERTH_SEED={seed}");
        Random(seed)
    }
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
