//! A small FAT16 file system in memory, with long names: what cloud-init and firmware read.
//!
//! ```text
//!  boot sector | FAT | FAT | root directory | clusters of files and folders
//! ```
//!
//! Written whole and never changed, so there is no allocator: every file and folder takes the next clusters. The
//! layout is that of Microsoft's FAT specification (2004), which cloud-init's and EDK2's readers follow.

const SECTOR: usize = 512;
const ROOT_ENTRIES: usize = 512;
const ROOT_SECTORS: usize = ROOT_ENTRIES * 32 / SECTOR;
/// With fewer clusters a reader would take it for FAT12.
const SECTORS_MIN: usize = 8192;
/// One more bit and it would be FAT32.
const CLUSTERS_MAX: usize = 65_000;
/// All files together: a seed is text, a boot loader a few megabytes.
pub const BYTES_MAX: usize = 64 << 20;
const NAME_CHARS_MAX: usize = 64;
const CHARS_PER_ENTRY: usize = 13;
const END_OF_CHAIN: u16 = 0xffff;
const FOLDER: u8 = 0x10;
const VOLUME: u8 = 0x08;
const ARCHIVE: u8 = 0x20;
const LONG_NAME: u8 = 0x0f;
/// 1980-01-01, the first day that there is.
const DATE: u16 = 0x21;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FatError {
    #[error("the files are larger than {BYTES_MAX} bytes together")]
    TooLarge,
    #[error("{0:?} is no name for a file: 1 to {NAME_CHARS_MAX} ASCII letters, digits, dots, dashes and underscores")]
    Name(String),
    #[error("more files than a folder takes")]
    TooMany,
}

#[derive(Default)]
struct Folder<'a> {
    folders: Vec<(&'a str, Folder<'a>)>,
    files: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Folder<'a> {
    fn put(&mut self, path: &'a str, bytes: &'a [u8]) -> Result<(), FatError> {
        let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let good = first.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if !good || first.trim_matches('.').is_empty() || first.len() > NAME_CHARS_MAX {
            return Err(FatError::Name(path.to_owned()));
        }
        let Some(rest) = rest else {
            self.files.push((first, bytes));
            return Ok(());
        };
        let at = self.folders.iter().position(|(name, _)| *name == first).unwrap_or_else(|| {
            self.folders.push((first, Folder::default()));
            self.folders.len() - 1
        });
        self.folders[at].1.put(rest, bytes)
    }
}

/// A file system with this label and these files; a path's folders are made.
pub fn image(label: &str, files: &[(&str, &[u8])]) -> Result<Vec<u8>, FatError> {
    if files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > BYTES_MAX {
        return Err(FatError::TooLarge);
    }
    let mut root = Folder::default();
    for (path, bytes) in files {
        root.put(path, bytes)?;
    }
    let content: usize = files.iter().map(|(path, bytes)| bytes.len() + SECTOR * (2 + path.matches('/').count())).sum();
    let mut per_cluster = 1;
    // Each file and folder may leave a cluster half empty.
    while content / (SECTOR * per_cluster) + 4 * files.len() > CLUSTERS_MAX {
        per_cluster *= 2;
    }
    let room = content + 4 * files.len() * SECTOR * per_cluster;
    let clusters = (room / (SECTOR * per_cluster)).max(SECTORS_MIN);
    let fat_sectors = ((clusters + 2) * 2).div_ceil(SECTOR);
    let data = 1 + 2 * fat_sectors + ROOT_SECTORS;
    let mut writer = Writer {
        bytes: vec![0; (data + clusters * per_cluster) * SECTOR],
        table: vec![0xfff8, END_OF_CHAIN],
        data: data * SECTOR,
        cluster: per_cluster * SECTOR,
    };
    writer.boot_sector(label, per_cluster, fat_sectors);
    let mut entries = entry(&short_label(label), VOLUME, 0, 0);
    writer.folder(&root, 0, &mut entries)?;
    if entries.len() > ROOT_ENTRIES * 32 {
        return Err(FatError::TooMany);
    }
    let at = (1 + 2 * fat_sectors) * SECTOR;
    writer.bytes[at..at + entries.len()].copy_from_slice(&entries);
    let table: Vec<u8> = writer.table.iter().flat_map(|next| next.to_le_bytes()).collect();
    for copy in 0..2 {
        let at = (1 + copy * fat_sectors) * SECTOR;
        writer.bytes[at..at + table.len()].copy_from_slice(&table);
    }
    Ok(writer.bytes)
}

struct Writer {
    bytes: Vec<u8>,
    /// By cluster: the next one.
    table: Vec<u16>,
    data: usize,
    cluster: usize,
}

impl Writer {
    fn boot_sector(&mut self, label: &str, per_cluster: usize, fat_sectors: usize) {
        let total = (self.bytes.len() / SECTOR) as u32;
        let mut put = |at: usize, bytes: &[u8]| self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0xeb, 0x3c, 0x90]);
        put(3, b"MSDOS5.0");
        put(11, &(SECTOR as u16).to_le_bytes());
        put(13, &[per_cluster as u8]);
        put(14, &1_u16.to_le_bytes());
        put(16, &[2]);
        put(17, &(ROOT_ENTRIES as u16).to_le_bytes());
        // The 16-bit total where it fits, as readers expect it.
        match u16::try_from(total) {
            Ok(total) => put(19, &total.to_le_bytes()),
            Err(_) => put(32, &total.to_le_bytes()),
        }
        put(21, &[0xf8]);
        put(22, &(fat_sectors as u16).to_le_bytes());
        put(24, &[32, 0, 64, 0]);
        put(36, &[0x80, 0, 0x29]);
        put(39, &0xbe47_0001_u32.to_le_bytes());
        put(43, &short_label(label));
        put(54, b"FAT16   ");
        put(510, &[0x55, 0xaa]);
    }

    /// Bytes in the next clusters; their first one's number, 0 for nothing.
    fn store(&mut self, bytes: &[u8]) -> u16 {
        if bytes.is_empty() {
            return 0;
        }
        let first = self.table.len();
        let count = bytes.len().div_ceil(self.cluster);
        self.table.extend((first + 1..first + count).map(|next| next as u16).chain([END_OF_CHAIN]));
        let at = self.data + (first - 2) * self.cluster;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        first as u16
    }

    /// Stores what is in a folder and adds its entries. A folder's own cluster is taken first: those in it name it.
    fn folder(&mut self, folder: &Folder<'_>, own: u16, entries: &mut Vec<u8>) -> Result<(), FatError> {
        let mut aliases = Vec::new();
        for (name, inner) in &folder.folders {
            let cluster = self.store(&[0]);
            let mut below = [entry(b".          ", FOLDER, cluster, 0), entry(b"..         ", FOLDER, own, 0)].concat();
            self.folder(inner, cluster, &mut below)?;
            if below.len() > self.cluster {
                return Err(FatError::TooMany);
            }
            let at = self.data + (usize::from(cluster) - 2) * self.cluster;
            self.bytes[at..at + below.len()].copy_from_slice(&below);
            named(name, FOLDER, cluster, 0, &mut aliases, entries);
        }
        for (name, bytes) in &folder.files {
            let cluster = self.store(bytes);
            named(name, ARCHIVE, cluster, bytes.len() as u32, &mut aliases, entries);
        }
        Ok(())
    }
}

fn short_label(label: &str) -> [u8; 11] {
    let mut out = [b' '; 11];
    for (to, from) in out.iter_mut().zip(label.bytes()) {
        *to = from.to_ascii_uppercase();
    }
    out
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u16, size: u32) -> Vec<u8> {
    let mut out = vec![0; 32];
    out[..11].copy_from_slice(name);
    out[11] = attributes;
    out[16..18].copy_from_slice(&DATE.to_le_bytes());
    out[24..26].copy_from_slice(&DATE.to_le_bytes());
    out[26..28].copy_from_slice(&cluster.to_le_bytes());
    out[28..32].copy_from_slice(&size.to_le_bytes());
    out
}

/// A name as the old form has it, where it has one: eight and three capital letters.
fn plain(name: &str) -> Option<[u8; 11]> {
    let (stem, ending) = name.split_once('.').unwrap_or((name, ""));
    let fits = |part: &str, most| part.len() <= most && !part.contains('.') && part == part.to_ascii_uppercase();
    if stem.is_empty() || !fits(stem, 8) || !fits(ending, 3) {
        return None;
    }
    let mut out = [b' '; 11];
    out[..stem.len()].copy_from_slice(stem.as_bytes());
    out[8..8 + ending.len()].copy_from_slice(ending.as_bytes());
    Some(out)
}

/// The entries of a name: its long form's, last part first, and the short one that old readers see.
fn named(name: &str, attributes: u8, cluster: u16, size: u32, aliases: &mut Vec<[u8; 11]>, entries: &mut Vec<u8>) {
    if let Some(short) = plain(name) {
        aliases.push(short);
        entries.extend(entry(&short, attributes, cluster, size));
        return;
    }
    let letters: Vec<u8> =
        name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_uppercase()).take(4).collect();
    let short = (1_u32..)
        .map(|number| {
            let text = [&letters[..], format!("~{number}").as_bytes()].concat();
            let mut out = [b' '; 11];
            out[..text.len().min(8)].copy_from_slice(&text[..text.len().min(8)]);
            out
        })
        .find(|short| !aliases.contains(short))
        .unwrap_or([b'_'; 11]);
    aliases.push(short);
    let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let chars: Vec<u16> = name.encode_utf16().collect();
    let parts: Vec<&[u16]> = chars.chunks(CHARS_PER_ENTRY).collect();
    for (index, part) in parts.iter().enumerate().rev() {
        let last = if index + 1 == parts.len() { 0x40 } else { 0 };
        let mut out = vec![0; 32];
        (out[0], out[11], out[13]) = ((index + 1) as u8 | last, LONG_NAME, sum);
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (at, place) in places.enumerate() {
            // A zero ends the name, ones fill up.
            let unit = part.get(at).copied().unwrap_or(if at == part.len() { 0 } else { 0xffff });
            out[place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entries.extend(out);
    }
    entries.extend(entry(&short, attributes, cluster, size));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader of the specification finds: names with their bytes.
    fn read(image: &[u8]) -> Vec<(String, Vec<u8>)> {
        let word = |at: usize| usize::from(u16::from_le_bytes([image[at], image[at + 1]]));
        let (per_cluster, fat_sectors) = (usize::from(image[13]), word(22));
        let data = (1 + 2 * fat_sectors + ROOT_SECTORS) * SECTOR;
        let cluster = per_cluster * SECTOR;
        let chain = |first: usize| {
            let (mut at, mut bytes) = (first, Vec::new());
            while (2..0xfff8).contains(&at) {
                bytes.extend_from_slice(&image[data + (at - 2) * cluster..][..cluster]);
                at = word(SECTOR + 2 * at);
            }
            bytes
        };
        let mut found = Vec::new();
        let root = (1 + 2 * fat_sectors) * SECTOR;
        let mut folders = vec![(String::new(), image[root..root + ROOT_ENTRIES * 32].to_vec())];
        while let Some((path, entries)) = folders.pop() {
            let mut long = Vec::new();
            for entry in entries.chunks(32).take_while(|entry| entry[0] != 0) {
                if entry[11] == LONG_NAME {
                    let units = [&entry[1..11], &entry[14..26], &entry[28..32]].concat();
                    let mut part: Vec<u16> = units.chunks(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
                    part.retain(|unit| *unit != 0 && *unit != 0xffff);
                    part.append(&mut long);
                    long = part;
                    continue;
                }
                let text = |part: &[u8]| String::from_utf8_lossy(part).trim_end().to_owned();
                let (stem, ending) = (text(&entry[..8]), text(&entry[8..11]));
                let short = if ending.is_empty() { stem } else { format!("{stem}.{ending}") };
                let name = if long.is_empty() { short } else { String::from_utf16(&long).unwrap() };
                long.clear();
                if entry[11] & VOLUME != 0 || name.starts_with('.') {
                    continue;
                }
                let mut bytes = chain(usize::from(u16::from_le_bytes([entry[26], entry[27]])));
                if entry[11] & FOLDER != 0 {
                    folders.push((format!("{path}{name}/"), bytes));
                    continue;
                }
                bytes.truncate(u32::from_le_bytes(entry[28..32].try_into().unwrap()) as usize);
                found.push((format!("{path}{name}"), bytes));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn what_is_written_is_what_a_reader_finds() {
        let long = vec![7_u8; 5000];
        let files: [(&str, &[u8]); 5] = [
            ("EFI/BOOT/BOOTX64.EFI", &long),
            ("meta-data", b"instance-id: x\n"),
            ("network-config", b""),
            ("user-data", b"#cloud-config\n"),
            ("user-data-of-a-name-longer-than-one-entry", b"y"),
        ];
        let image = image("cidata", &files).unwrap();
        let want: Vec<_> = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        assert_eq!(read(&image), want);
        assert_eq!(&image[43..54], b"CIDATA     ");
        let clusters = (image.len() / SECTOR - 1 - ROOT_SECTORS) / usize::from(image[13]);
        assert!((4085..65_525).contains(&clusters), "another kind of FAT: {clusters}");
    }

    #[test]
    fn a_large_file_gets_larger_clusters() {
        let large = vec![1_u8; 48 << 20];
        let image = image("x", &[("large", &large)]).unwrap();
        assert_eq!(read(&image)[0].1.len(), large.len());
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "a/", "..", "a b", "ü", "a/../b"] {
            assert!(image("x", &[(bad, b"")]).is_err(), "{bad}");
        }
    }
}
