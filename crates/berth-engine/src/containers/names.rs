//! Names for containers whose owner gave none: a quality and somebody who made computing what it is.

const QUALITIES: [&str; 64] = [
    "able", "agile", "amber", "ample", "apt", "ardent", "blithe", "bold", "brave", "bright", "brisk", "calm", "candid",
    "cheerful", "civil", "clear", "clever", "cosy", "crisp", "curious", "deft", "eager", "early", "earnest", "easy",
    "fair", "fleet", "frank", "fresh", "gentle", "glad", "golden", "handy", "happy", "hardy", "honest", "humble",
    "jolly", "keen", "kind", "lively", "lucid", "lucky", "merry", "mild", "modest", "neat", "nimble", "noble",
    "patient", "plucky", "proud", "quick", "quiet", "ready", "serene", "sharp", "steady", "sunny", "swift", "tidy",
    "vivid", "warm", "wise",
];

const PEOPLE: [&str; 64] = [
    "allen",
    "babbage",
    "backus",
    "bartik",
    "bell",
    "berners",
    "borg",
    "cerf",
    "chomsky",
    "church",
    "clark",
    "cocke",
    "codd",
    "cook",
    "cray",
    "curry",
    "dahl",
    "diffie",
    "dijkstra",
    "engelbart",
    "estrin",
    "feinler",
    "floyd",
    "frances",
    "goedel",
    "goldberg",
    "goldwasser",
    "gray",
    "hamilton",
    "hamming",
    "hellman",
    "hoare",
    "holberton",
    "hopper",
    "huffman",
    "johnson",
    "kahn",
    "karp",
    "kay",
    "keller",
    "kernighan",
    "kilby",
    "knuth",
    "lamport",
    "leibniz",
    "liskov",
    "lovelace",
    "mccarthy",
    "merkle",
    "milner",
    "minsky",
    "naur",
    "neumann",
    "noyce",
    "pascal",
    "perlman",
    "postel",
    "ritchie",
    "shannon",
    "stallman",
    "thompson",
    "turing",
    "wirth",
    "zuse",
];

/// `keen_hopper`; with a number once names have been taken.
pub(super) fn generate(random: [u8; 32], attempt: usize) -> String {
    let quality = QUALITIES[usize::from(random[0]) % QUALITIES.len()];
    let person = PEOPLE[usize::from(random[1]) % PEOPLE.len()];
    match attempt {
        0 => format!("{quality}_{person}"),
        // Every further try has more to choose from: it ends however many there are.
        _ => {
            let number = u32::from_le_bytes([random[2], random[3], random[4], random[5]]);
            format!("{quality}_{person}{}", number % 10_u32.saturating_pow(u32::try_from(attempt).unwrap_or(9).min(9)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_allowed_ones() {
        for byte in 0..=255 {
            for attempt in 0..12 {
                let name = generate([byte; 32], attempt);
                assert!(super::super::create::check_name(&name).is_ok(), "{name}");
            }
        }
    }
}
