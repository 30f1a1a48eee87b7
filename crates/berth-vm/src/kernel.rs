//! A distribution's kernel: what is in its file, and the order of its modules.
//!
//! ```text
//!  bzImage   0x1f1 sectors of the setup, 0x202 "HdrS", 0x248 where the packed kernel is, 0x24c how long
//!  inside    an ELF (vmlinux) in one of several packings
//! ```
//!
//! Booting the ELF itself (PVH) saves the guest from unpacking itself, which under emulation takes as long as the rest
//! of its start.

use std::ops::Range;

/// An unpacked kernel is smaller.
pub const KERNEL_BYTES_MAX: usize = 512 << 20;
const ELF: &[u8] = b"\x7fELF";
/// Of `.modinfo`.
const DEPENDS: &[u8] = b"depends=";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    None,
    Gzip,
    Xz,
    Zstd,
    /// lz4's old frame format.
    Lz4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    #[error("it is no Linux kernel for this processor")]
    NoKernel,
    #[error("its packed part is damaged")]
    Damaged,
    #[error("it is packed in a way that is not known here")]
    Packing,
    #[error("unpacked it is larger than {KERNEL_BYTES_MAX} bytes")]
    Large,
}

/// Where in a kernel's file the ELF is, and how it is packed.
pub fn find(file: &[u8]) -> Result<(Range<usize>, Packing), KernelError> {
    if file.starts_with(ELF) {
        return Ok((0..file.len(), Packing::None));
    }
    if file.get(0x202..0x206) != Some(b"HdrS") {
        return Err(KernelError::NoKernel);
    }
    let sectors = usize::from(*file.get(0x1f1).ok_or(KernelError::NoKernel)?);
    let number = |at: usize| {
        let four = file.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(four)).ok()
    };
    let (Some(offset), Some(length)) = (number(0x248), number(0x24c)) else { return Err(KernelError::NoKernel) };
    let setup = (if sectors == 0 { 4 } else { sectors } + 1) * 512;
    let begin = setup.checked_add(offset).ok_or(KernelError::Damaged)?;
    let end = begin.checked_add(length).ok_or(KernelError::Damaged)?;
    let packed = file.get(begin..end).ok_or(KernelError::Damaged)?;
    Ok((begin..end, packing(packed).ok_or(KernelError::Packing)?))
}

/// By the first bytes.
pub fn packing(bytes: &[u8]) -> Option<Packing> {
    Some(match bytes {
        [0x7f, b'E', b'L', b'F', ..] => Packing::None,
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
        [0x02, 0x21, 0x4c, 0x18, ..] => Packing::Lz4,
        _ => return None,
    })
}

/// Unpacks lz4's old format: a magic number, then blocks with their length before them.
pub fn unpack_lz4(mut rest: &[u8]) -> Result<Vec<u8>, KernelError> {
    rest = rest.strip_prefix(&[0x02, 0x21, 0x4c, 0x18]).ok_or(KernelError::Damaged)?;
    let mut out = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*head)).map_err(|_| KernelError::Damaged)?;
        // The kernel's build appends the unpacked size, which no block's length is: it ends the file.
        if length == 0 || length > tail.len() {
            break;
        }
        let (block, more) = tail.split_at(length);
        lz4_block(block, &mut out)?;
        rest = more;
    }
    Ok(out)
}

/// lz4_Block_format.md: literals, then a copy of what came before, again and again; the last has no copy.
fn lz4_block(mut block: &[u8], out: &mut Vec<u8>) -> Result<(), KernelError> {
    let begin = out.len();
    fn byte(block: &mut &[u8]) -> Result<usize, KernelError> {
        let (&first, rest) = block.split_first().ok_or(KernelError::Damaged)?;
        *block = rest;
        Ok(usize::from(first))
    }
    fn length(block: &mut &[u8], short: usize) -> Result<usize, KernelError> {
        let mut length = short;
        if short == 15 {
            loop {
                let more = byte(block)?;
                length += more;
                if more != 255 {
                    break;
                }
            }
        }
        Ok(length)
    }
    loop {
        let token = byte(&mut block)?;
        let literals = length(&mut block, token >> 4)?;
        let (bytes, rest) = block.split_at_checked(literals).ok_or(KernelError::Damaged)?;
        out.extend_from_slice(bytes);
        block = rest;
        if block.is_empty() {
            return Ok(());
        }
        let offset = byte(&mut block)? | byte(&mut block)? << 8;
        let copied = length(&mut block, token & 15)? + 4;
        if offset == 0 || offset > out.len() - begin {
            return Err(KernelError::Damaged);
        }
        if out.len() + copied > KERNEL_BYTES_MAX {
            return Err(KernelError::Large);
        }
        for _ in 0..copied {
            out.push(out[out.len() - offset]);
        }
    }
}

/// Names of the modules that this one needs loaded before it.
pub fn depends(module: &[u8]) -> Vec<String> {
    let mut at = 0;
    while let Some(found) = module[at..].windows(DEPENDS.len()).position(|window| window == DEPENDS) {
        let begin = at + found;
        let text = &module[begin + DEPENDS.len()..];
        if begin > 0 && module[begin - 1] == 0 {
            let end = text.iter().position(|byte| *byte == 0).unwrap_or(0);
            let names = String::from_utf8_lossy(&text[..end]);
            return names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect();
        }
        at = begin + DEPENDS.len();
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_block_with_a_copy_over_itself_is_unpacked() {
        // "ab" and a copy of 6 from 2 back, then "!" alone.
        let block = [0x22, b'a', b'b', 2, 0, 0x10, b'!'];
        let mut file = vec![0x02, 0x21, 0x4c, 0x18];
        file.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        file.extend(block);
        file.extend([9, 0, 0, 0]);
        assert_eq!(unpack_lz4(&file).unwrap(), b"abababab!");
    }

    #[test]
    fn a_kernel_is_found_in_its_file() {
        let mut file = vec![0; 0x2000];
        file[0x1f1] = 4;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x248..0x24c].copy_from_slice(&0x100_u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&0x20_u32.to_le_bytes());
        let begin = 5 * 512 + 0x100;
        file[begin..begin + 4].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
        assert_eq!(find(&file).unwrap(), (begin..begin + 0x20, Packing::Zstd));
        file[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(find(&file), Err(KernelError::Damaged));
        assert_eq!(find(b"MZ"), Err(KernelError::NoKernel));
    }

    #[test]
    fn a_module_says_what_it_needs() {
        let module = b"\x7fELF..no depends=here\0license=GPL\0depends=virtio,virtio-ring\0name=x\0";
        assert_eq!(depends(module), ["virtio", "virtio_ring"]);
        assert!(depends(b"\0depends=\0").is_empty() && depends(b"").is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut file = vec![0x02, 0x21, 0x4c, 0x18];
            file.extend(&bytes);
            drop(unpack_lz4(&file));
            drop(find(&bytes));
            drop(depends(&bytes));
        }
    }
}
