//! Deflate (RFC 1951) for speed: the same bytes for the same bytes, on every processor.
//!
//! ```text
//! bytes ──parse──> tokens: one or two literals, or a match ──count──> codes ──write──> a block with codes of its own
//! ```
//!
//! What time goes into is branches that processors guess wrong. So there is one look at each place, into a table that
//! fits in the nearest memory, and the first that matches is taken; and a token is written without asking what it is: a
//! second literal stands where a match has its distance, and nothing where there is neither.

const HASH_BITS: u32 = 13;
/// A match shorter than this is hardly shorter than its literals.
const MATCH_MIN: u32 = 4;
const MATCH_MAX: usize = 258;
const WINDOW: usize = 32 << 10;
/// The last bytes are literals: what is read ahead of a place is there without a question.
const TAIL: usize = 16;
/// So many literals without a match make steps one byte longer, in what cannot be packed.
const STEP_SHIFT: u32 = 6;
/// Literals in a row that become tokens at once.
const RUN_MAX: usize = 1 << 10;
/// Tokens of one block, and what the last place of one may add.
const TOKENS_MAX: usize = 24 << 10;
const TOKENS_SPARE: usize = (RUN_MAX + (RUN_MAX >> STEP_SHIFT) + TAIL) / 2 + 8;

const LITLEN_SYMBOLS: usize = 286;
const DISTANCE_SYMBOLS: usize = 30;
const END: usize = 256;
const CODE_BITS_MAX: usize = 15;
const STORED_BYTES_MAX: usize = 0xffff;

// A token: 10 bits of a literal or a match's length, 9 of a distance's symbol or a second literal, 13 of the distance's rest.
const LITLEN_WORDS: usize = 1 << 10;
const SECOND_WORDS: usize = 1 << 9;
/// A length `n` is the word `n + LENGTH_WORD`, behind the literals.
const LENGTH_WORD: usize = 254;
/// No second literal, no distance.
const NONE: u32 = 30;
/// Second literals from here on.
const SECOND: u32 = 31;
const REST_SHIFT: u32 = 19;

/// Of each length of a match: symbol, extra bits, and the first length with that symbol.
const LENGTHS: [(u16, u8, u16); MATCH_MAX + 1] = lengths();

const fn lengths() -> [(u16, u8, u16); MATCH_MAX + 1] {
    let mut all = [(0, 0, 0); MATCH_MAX + 1];
    let (mut base, mut symbol) = (3, 257);
    while symbol < 285 {
        let extra = if symbol < 265 { 0 } else { (symbol - 261) / 4 };
        let mut length = base;
        while length < base + (1 << extra) && length <= MATCH_MAX {
            all[length] = (symbol, extra as u8, base as u16);
            length += 1;
        }
        base += 1 << extra;
        symbol += 1;
    }
    all[MATCH_MAX] = (285, 0, MATCH_MAX as u16);
    all
}

/// Symbol of a distance, and what its extra bits say.
#[inline]
fn distance(distance: u32) -> (u32, u32) {
    let from_zero = distance - 1;
    let extra = (31 - (from_zero | 1).leading_zeros()).saturating_sub(1);
    ((extra << 1) + (from_zero >> extra), from_zero & ((1 << extra) - 1))
}

fn distance_extra(symbol: usize) -> u32 {
    (symbol as u32 / 2).saturating_sub(1)
}

#[inline]
fn load(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(from[at..at + 8].try_into().expect("eight bytes"))
}

#[inline]
fn hash(bytes: u64) -> usize {
    ((bytes << 32).wrapping_mul(0x9E37_79B1_85EB_CA87) >> (64 - HASH_BITS)) as usize
}

/// Packs one piece after the other; its memory stays.
pub(crate) struct Deflater {
    /// Where bytes with that hash were last: the place's low 16 bits.
    table: Box<[u16; 1 << HASH_BITS]>,
    tokens: Vec<u32>,
}

impl Deflater {
    pub(crate) fn new() -> Deflater {
        Deflater { table: Box::new([0; 1 << HASH_BITS]), tokens: vec![0; TOKENS_MAX + TOKENS_SPARE] }
    }

    /// Adds `from`, packed, to `to`.
    pub(crate) fn deflate(&mut self, from: &[u8], to: &mut Vec<u8>) {
        self.table.fill(0);
        let mut out = Bits { to, bits: 0, count: 0 };
        let mut at = 0;
        loop {
            let (end, count) = self.parse(from, at);
            let last = end == from.len();
            write_block(&from[at..end], &self.tokens[..count], last, &mut out);
            if last {
                return out.align();
            }
            at = end;
        }
    }

    /// Makes tokens of what begins at `start`; where they end, and how many they are.
    fn parse(&mut self, from: &[u8], start: usize) -> (usize, usize) {
        let (table, tokens) = (&mut *self.table, &mut self.tokens[..]);
        let (mut at, mut anchor, mut count) = (start, start, 0);
        let stop = from.len().saturating_sub(TAIL);
        while at < stop && count < TOKENS_MAX {
            let here = load(from, at);
            let slot = &mut table[hash(here)];
            // An empty slot says 0, which is a place as well; what is farther back than 64 KiB seems nearer. Both are
            // compared like any other, and none lies before the beginning.
            let back = usize::from((at as u16).wrapping_sub(*slot));
            *slot = at as u16;
            let there = at - back;
            let differs = here ^ load(from, there);
            if (differs << (64 - 8 * MATCH_MIN) != 0) | (back.wrapping_sub(1) >= WINDOW) {
                at += 1 + ((at - anchor) >> STEP_SHIFT);
                if at - anchor >= RUN_MAX {
                    at = at.min(stop);
                    count = literals(&from[anchor..], at - anchor, tokens, count);
                    anchor = at;
                }
                continue;
            }
            let length = match_length(from, at, there, differs);
            count = literals(&from[anchor..], at - anchor, tokens, count);
            let (symbol, rest) = distance(back as u32);
            tokens[count] = (length + LENGTH_WORD) as u32 | symbol << 10 | rest << REST_SHIFT;
            count += 1;
            let next = at + length;
            table[hash(load(from, at + 1))] = (at + 1) as u16;
            if next < stop {
                table[hash(load(from, next - 2))] = (next - 2) as u16;
            }
            at = next;
            anchor = next;
        }
        let end = if at < stop { at } else { from.len() };
        count = literals(&from[anchor..], end - anchor, tokens, count);
        (end, count)
    }
}

/// How long what is at `at` is the same as what is at `there`; `differs` is where the first eight bytes do.
#[inline]
fn match_length(from: &[u8], at: usize, there: usize, differs: u64) -> usize {
    let next = load(from, at + 8) ^ load(from, there + 8);
    let same = |differs: u64| (differs.trailing_zeros() / 8) as usize;
    let mut length = if differs == 0 { 8 + same(next) } else { same(differs) };
    if length < 16 {
        return length;
    }
    let most = MATCH_MAX.min(from.len() - at);
    while length + 8 <= most {
        let differs = load(from, at + length) ^ load(from, there + length);
        length += same(differs);
        if differs != 0 {
            return length;
        }
    }
    while length < most && from[at + length] == from[there + length] {
        length += 1;
    }
    length
}

/// Makes tokens of the first `length` bytes, two for each.
#[inline]
fn literals(from: &[u8], length: usize, tokens: &mut [u32], count: usize) -> usize {
    let pair = |first: u32, second: u32| first | (SECOND + second) << 10;
    if length <= 8 && from.len() > 8 {
        // Most runs are short: all of them in one way, and what is too much is overwritten.
        let bytes = load(from, 0);
        let places: &mut [u32; 5] = (&mut tokens[count..count + 5]).try_into().expect("five tokens");
        for (n, place) in places[..4].iter_mut().enumerate() {
            let two = (bytes >> (16 * n)) as u32;
            *place = pair(two & 0xff, two >> 8 & 0xff);
        }
        places[length / 2] = u32::from(from[length & 14]) | NONE << 10;
        return count + length.div_ceil(2);
    }
    for (two, place) in from[..length].chunks(2).zip(&mut tokens[count..]) {
        *place = match *two {
            [first, second] => pair(u32::from(first), u32::from(second)),
            _ => u32::from(two[0]) | NONE << 10,
        };
    }
    count + length.div_ceil(2)
}

/// Bits on their way out.
struct Bits<'a> {
    to: &'a mut Vec<u8>,
    bits: u64,
    /// Of them, always less than 8 between two calls.
    count: u32,
}

impl Bits<'_> {
    fn put(&mut self, bits: u32, count: u32) {
        self.bits |= u64::from(bits) << self.count;
        self.count += count;
        while self.count >= 8 {
            self.to.push(self.bits as u8);
            self.bits >>= 8;
            self.count -= 8;
        }
    }

    fn align(&mut self) {
        if self.count > 0 {
            self.to.push(self.bits as u8);
        }
        (self.bits, self.count) = (0, 0);
    }
}

/// The codes of one block.
struct Codes {
    litlen: [(u32, u8); LITLEN_SYMBOLS],
    distance: [(u32, u8); DISTANCE_SYMBOLS],
}

/// A block of `tokens`, or of `from` as it is where that is shorter.
fn write_block(from: &[u8], tokens: &[u32], last: bool, out: &mut Bits<'_>) {
    let (mut first, mut second) = ([0u32; LITLEN_WORDS], [0u32; SECOND_WORDS]);
    for token in tokens {
        first[(token & 0x3ff) as usize] += 1;
        second[(token >> 10 & 0x1ff) as usize] += 1;
    }
    let mut litlen = [0; LITLEN_SYMBOLS];
    for byte in 0..256 {
        litlen[byte] = first[byte] + second[SECOND as usize + byte];
    }
    litlen[END] = 1;
    let mut bits = 0;
    for length in 3..=MATCH_MAX {
        let (symbol, extra, _) = LENGTHS[length];
        litlen[usize::from(symbol)] += first[LENGTH_WORD + length];
        bits += u64::from(first[LENGTH_WORD + length]) * u64::from(extra);
    }
    let mut codes = Codes { litlen: [(0, 0); LITLEN_SYMBOLS], distance: [(0, 0); DISTANCE_SYMBOLS] };
    make_codes(&litlen, CODE_BITS_MAX, &mut codes.litlen);
    make_codes(&second[..DISTANCE_SYMBOLS], CODE_BITS_MAX, &mut codes.distance);
    if codes.distance.iter().all(|(_, length)| *length == 0) {
        codes.distance[0] = (0, 1);
    }
    bits +=
        litlen.iter().zip(&codes.litlen).map(|(count, (_, bits))| u64::from(*count) * u64::from(*bits)).sum::<u64>();
    for (symbol, (_, bits_of)) in codes.distance.iter().enumerate() {
        bits += u64::from(second[symbol]) * u64::from(u32::from(*bits_of) + distance_extra(symbol));
    }
    let mut head = Vec::new();
    let mut head_bits = Bits { to: &mut head, bits: out.bits, count: out.count };
    write_head(&codes, last, &mut head_bits);
    let (left, left_count) = (head_bits.bits, head_bits.count);
    let bytes = usize::try_from(bits / 8).unwrap_or(usize::MAX);
    if head.len().saturating_add(bytes) >= from.len() + 5 * (from.len() / STORED_BYTES_MAX + 1) {
        return write_stored(from, last, out);
    }
    out.to.extend_from_slice(&head);
    (out.bits, out.count) = (left, left_count);
    write_tokens(tokens, &codes, bytes, out);
}

fn write_stored(mut from: &[u8], last: bool, out: &mut Bits<'_>) {
    loop {
        let (part, rest) = from.split_at(from.len().min(STORED_BYTES_MAX));
        out.put(u32::from(last && rest.is_empty()), 3);
        out.align();
        out.to.extend_from_slice(&(part.len() as u16).to_le_bytes());
        out.to.extend_from_slice(&(!(part.len() as u16)).to_le_bytes());
        out.to.extend_from_slice(part);
        from = rest;
        if from.is_empty() {
            return;
        }
    }
}

/// Writes tokens that take `bytes`, and the block's end.
fn write_tokens(tokens: &[u32], codes: &Codes, bytes: usize, out: &mut Bits<'_>) {
    // Bits, how many, and of a distance's symbol where its rest goes.
    let (mut first, mut second) = ([(0u32, 0u32); LITLEN_WORDS], [(0u32, 0u32, 0u32); SECOND_WORDS]);
    for byte in 0..256 {
        let (code, bits) = codes.litlen[byte];
        first[byte] = (code, u32::from(bits));
        second[SECOND as usize + byte] = (code, u32::from(bits), 0);
    }
    for length in 3..=MATCH_MAX {
        let (symbol, extra, base) = LENGTHS[length];
        let (code, bits) = codes.litlen[usize::from(symbol)];
        let rest = (length as u32 - u32::from(base)) << bits;
        first[LENGTH_WORD + length] = (code | rest, u32::from(bits + extra));
    }
    for (symbol, (code, bits)) in codes.distance.iter().enumerate() {
        second[symbol] = (*code, u32::from(*bits) + distance_extra(symbol), u32::from(*bits));
    }
    let mut at = out.to.len();
    // Each write is of eight bytes, whatever of them counts.
    out.to.resize(at + bytes + 32, 0);
    let (mut bits, mut count) = (out.bits, out.count);
    let mut put = |word: u64, length: u32| {
        bits |= word << count;
        count += length;
        out.to[at..at + 8].copy_from_slice(&bits.to_le_bytes());
        at += (count >> 3) as usize;
        bits >>= count & !7;
        count &= 7;
    };
    for token in tokens {
        let (code, length) = first[(token & 0x3ff) as usize];
        let (next, next_length, rest_at) = second[(token >> 10 & 0x1ff) as usize];
        // At most 20 and 28 bits, behind the 7 that may be left.
        let next = u64::from(next) | u64::from(token >> REST_SHIFT) << rest_at;
        put(u64::from(code) | next << length, length + next_length);
    }
    let (code, length) = codes.litlen[END];
    put(u64::from(code), u32::from(length));
    (out.bits, out.count) = (bits, count);
    out.to.truncate(at);
}

/// What a block begins with: the lengths of its codes, in codes of their own.
fn write_head(codes: &Codes, last: bool, out: &mut Bits<'_>) {
    const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    let used = |codes: &[(u32, u8)], least: usize| {
        codes.iter().rposition(|(_, length)| *length > 0).map_or(least, |at| least.max(at + 1))
    };
    let (litlen, distance) = (used(&codes.litlen, 257), used(&codes.distance, 1));
    let all: Vec<u8> =
        codes.litlen[..litlen].iter().chain(&codes.distance[..distance]).map(|(_, bits)| *bits).collect();
    // Symbol, extra bits, and how many.
    let mut items: Vec<(usize, u32, u32)> = Vec::new();
    let mut at = 0;
    while let Some(length) = all.get(at) {
        let run = all[at..].iter().take_while(|other| *other == length).count();
        let (run, item) = match (*length, run) {
            (0, 11..) => (run.min(138), (18, run.min(138) as u32 - 11, 7)),
            (0, 3..) => (run, (17, run as u32 - 3, 3)),
            (1.., 4..) => {
                items.push((usize::from(*length), 0, 0));
                ((run - 1).min(6) + 1, (16, (run - 1).min(6) as u32 - 3, 2))
            }
            _ => (1, (usize::from(*length), 0, 0)),
        };
        items.push(item);
        at += run;
    }
    let mut counts = [0; 19];
    for (symbol, ..) in &items {
        counts[*symbol] += 1;
    }
    // Unpackers want a whole code here: two symbols at least.
    if counts.iter().filter(|count| **count > 0).count() < 2 {
        counts[usize::from(counts[0] > 0)] += 1;
    }
    let mut words = [(0, 0); 19];
    make_codes(&counts, 7, &mut words);
    let count = 1 + ORDER.iter().rposition(|symbol| words[*symbol].1 > 0).unwrap_or(0);
    let count = count.max(4);
    out.put(u32::from(last) | 2 << 1, 3);
    out.put(litlen as u32 - 257, 5);
    out.put(distance as u32 - 1, 5);
    out.put(count as u32 - 4, 4);
    for symbol in &ORDER[..count] {
        out.put(u32::from(words[*symbol].1), 3);
    }
    for (symbol, extra, extra_bits) in items {
        let (code, length) = words[symbol];
        out.put(code, u32::from(length));
        out.put(extra, extra_bits);
    }
}

/// Codes for symbols that come so often, none longer than `limit`: bits as deflate writes them, and how many.
fn make_codes(counts: &[u32], limit: usize, codes: &mut [(u32, u8)]) {
    codes.fill((0, 0));
    let mut used: Vec<(u32, usize)> = counts.iter().copied().zip(0..).filter(|(count, _)| *count > 0).collect();
    match used[..] {
        [] => return,
        // RFC 1951, 3.2.7: one bit, not none.
        [(_, symbol)] => return codes[symbol] = (0, 1),
        _ => used.sort_unstable(),
    }
    // Huffman's tree: leaves by weight, then the inner nodes, which come in the order of theirs.
    let (leaves, nodes) = (used.len(), 2 * used.len() - 1);
    let mut weights: Vec<u32> = used.iter().map(|(count, _)| *count).collect();
    let mut parents = vec![0; nodes];
    let (mut leaf, mut inner) = (0, leaves);
    while weights.len() < nodes {
        let mut weight = 0;
        for _ in 0..2 {
            let lightest = match leaf < leaves && (inner >= weights.len() || weights[leaf] <= weights[inner]) {
                true => &mut leaf,
                false => &mut inner,
            };
            weight += weights[*lightest];
            parents[*lightest] = weights.len();
            *lightest += 1;
        }
        weights.push(weight);
    }
    let mut depths = vec![0; nodes];
    let mut lengths = [0u32; CODE_BITS_MAX + 1];
    for node in (0..nodes - 1).rev() {
        depths[node] = depths[parents[node]] + 1;
        if node < leaves {
            lengths[limit.min(depths[node])] += 1;
        }
    }
    // Those that were cut off take more room than there is: others become longer.
    let mut taken: u32 = (1..=limit).map(|length| lengths[length] << (limit - length)).sum();
    while taken > 1 << limit {
        let shorter = (1..limit).rev().find(|length| lengths[*length] > 0).unwrap_or(1);
        lengths[limit] -= 1;
        lengths[shorter] -= 1;
        lengths[shorter + 1] += 2;
        taken -= 1;
    }
    let mut rarest = used.iter();
    for length in (1..=limit).rev() {
        for (_, symbol) in rarest.by_ref().take(lengths[length] as usize) {
            codes[*symbol].1 = length as u8;
        }
    }
    let mut next = [0u32; CODE_BITS_MAX + 2];
    for length in 1..=limit {
        next[length + 1] = (next[length] + lengths[length]) << 1;
    }
    for (code, length) in codes.iter_mut().filter(|(_, length)| *length > 0) {
        *code = next[usize::from(*length)].reverse_bits() >> (32 - u32::from(*length));
        next[usize::from(*length)] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Deflater::new().deflate(bytes, &mut out);
        out
    }

    /// Two others' unpackers read what was packed.
    fn comes_back(bytes: &[u8]) -> usize {
        let packed = packed(bytes);
        let mut back = vec![0; bytes.len()];
        let count = libdeflater::Decompressor::new().deflate_decompress(&packed, &mut back).unwrap();
        assert!(count == bytes.len() && back == bytes, "libdeflate, {} bytes", bytes.len());
        back.clear();
        flate2::read::DeflateDecoder::new(&packed[..]).read_to_end(&mut back).unwrap();
        assert!(back == bytes, "zlib, {} bytes", bytes.len());
        packed.len()
    }

    fn noise(count: usize, mut seed: u64) -> Vec<u8> {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn everything_comes_back() {
        for length in (0..70).chain([255, 256, 257, 258, 259, 65_535, 65_536, 200_001]) {
            comes_back(&noise(length, 3));
            comes_back(&vec![7; length]);
            let few: Vec<u8> = noise(length, 5).iter().map(|byte| byte & 3).collect();
            comes_back(&few);
        }
        // Matches of each length, at each distance there may be and a little more.
        for away in [1, 2, 3, 4, 5, 7, 8, 9, 255, 8_191, 32_767, 32_768, 32_769, 65_535, 65_536, 65_537, 131_072] {
            let mut bytes = noise(away, 11);
            for length in 1..300 {
                let from = bytes.len() - away;
                for at in from..from + length {
                    bytes.push(bytes[at]);
                }
                bytes.extend(noise(3, length as u64));
            }
            comes_back(&bytes);
        }
    }

    #[test]
    fn what_cannot_be_packed_hardly_grows() {
        for length in [0, 1, 100, 65_535, 1 << 20] {
            let packed = comes_back(&noise(length, 17));
            assert!(packed <= length + 5 * (length / 30_000 + 1), "{length}: {packed}");
        }
        assert!(comes_back(&vec![0; 1 << 20]) < 2_000);
    }

    #[test]
    fn codes_are_never_too_long() {
        // Counts like Fibonacci's make the deepest tree.
        let mut counts = [1; 30];
        for n in 2..30 {
            counts[n] = counts[n - 1] + counts[n - 2];
        }
        for limit in [7, 15] {
            let mut codes = [(0, 0); 30];
            make_codes(&counts, limit, &mut codes);
            let room: f64 = codes.iter().map(|(_, length)| 0.5f64.powi(i32::from(*length))).sum();
            assert!(codes.iter().all(|(_, length)| (1..=limit).contains(&usize::from(*length))), "{codes:?}");
            assert!((room - 1.0).abs() < 1e-9, "{room}");
            assert!(codes[29].1 <= codes[0].1);
        }
        let mut skewed = Vec::new();
        for (byte, count) in counts[..24].iter().enumerate() {
            skewed.extend(std::iter::repeat_n(byte as u8, *count as usize));
        }
        let order = noise(skewed.len() * 4, 23);
        for at in 0..skewed.len() {
            let other = u32::from_le_bytes(order[4 * at..4 * at + 4].try_into().unwrap()) as usize % skewed.len();
            skewed.swap(at, other);
        }
        comes_back(&skewed);
    }

    #[test]
    fn a_program_is_packed_about_as_small_as_by_libdeflate() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let (mut ours, mut theirs) = (0, 0);
        let mut libdeflate = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(1).unwrap());
        for block in program.chunks(1 << 20).take(8) {
            let mut room = vec![0; libdeflate.deflate_compress_bound(block.len())];
            theirs += libdeflate.deflate_compress(block, &mut room).unwrap();
            ours += comes_back(block);
        }
        assert!(ours < theirs + theirs / 10, "{ours} beside {theirs}");
    }
}
