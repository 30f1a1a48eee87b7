//! Memory given back: for programs that work for a moment and then wait for days.

/// What is in use just below the caller's frame: its red zone and what it calls next.
const STACK_KEPT_BYTES: usize = 8 << 10;
/// Deeper than any work before; the kernel keeps a megabyte below the stack free of other mappings.
const STACK_FREED_BYTES: usize = 512 << 10;

/// Hands freed heap back to the kernel, of every thread's arena. Takes the allocator's locks for the time of a walk
/// through its free chunks: some milliseconds for a heap of many megabytes.
pub fn give_back_heap() {
    // SAFETY: malloc_trim releases pages in which nothing is allocated.
    unsafe { libc::malloc_trim(0) };
}

/// Hands freed heap and the stack's once used depth back to the kernel. For programs with a single thread: the
/// stack is taken to be the main thread's.
pub fn give_back() {
    give_back_heap();
    let marker = 0_u8;
    let page = 4096;
    let end = (std::ptr::from_ref(&marker).addr() - STACK_KEPT_BYTES) & !(page - 1);
    let start = end - STACK_FREED_BYTES;
    // SAFETY: the range is below this frame, where only frames of functions were that have returned; frames to come
    // find zeroes there, as on a stack that was never so deep. Where the stack's mapping ends earlier the kernel
    // handles the mapped part and says ENOMEM, which is as good.
    unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), STACK_FREED_BYTES, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    /// Uses some 200 KB of stack.
    #[inline(never)]
    fn deep(level: u32) -> u64 {
        let page = std::hint::black_box([level as u8; 4096]);
        let below = if level == 0 { 0 } else { deep(level - 1) };
        below + u64::from(page[17])
    }

    #[test]
    fn frames_and_heap_stay_whole() {
        let kept: Vec<u64> = (0..1000).collect();
        let before = deep(40);
        super::give_back();
        assert_eq!(deep(40), before);
        assert_eq!(kept.iter().sum::<u64>(), 499_500);
    }
}
