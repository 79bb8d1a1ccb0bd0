//! The program's own pages: code that was needed once.
//!
//! Starting reads certificates, parses the kernel's types, loads programs and takes in a whole mesh; most of that code never runs
//! again, yet its pages stay mapped, and they are most of what an idle proxy is resident with. Unmapped, they cost nobody anything until
//! they are needed: the kernel has them in its cache of files, and may let them go there. Whoever reads `RSS`, or the working
//! set by which Kubernetes evicts, then sees what the proxy works with.

use std::fs;

/// Unmaps the code of the program and its libraries where it is equal to its files; what runs on maps those pages again that it needs.
///
/// Says how many bytes of address space were looked at; 0 if the kernel does not tell what is mapped.
pub(super) fn give_back() -> usize {
    let Ok(text) = fs::read_to_string("/proc/self/smaps") else {
        return 0;
    };
    clean_code(&text).map(unmap).sum()
}

/// Address space that shows unchanged code of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
}

/// The mappings in the kernel's account (proc_pid_smaps(5)) whose pages may be forgotten without losing anything.
///
/// Only code: nobody unmaps that as long as the process lives, which may happen to other files that somebody reads in passing. And none
/// with a page of its own, such as one in which a debugger or a probe has put a breakpoint.
fn clean_code(smaps: &str) -> impl Iterator<Item = Mapping> + '_ {
    let mut last = None;
    smaps
        .lines()
        .filter_map(move |line| match line.strip_prefix("Anonymous:") {
            Some(own) if own.trim() == "0 kB" => last.take(),
            Some(_) => {
                last = None;
                None
            }
            None => {
                if let Some(head) = head(line) {
                    last = head;
                }
                None
            }
        })
}

/// A mapping's first line, if the line is one: `start-end permissions offset device inode path`. `Some(None)` = another kind of mapping.
fn head(line: &str) -> Option<Option<Mapping>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let permissions = words.next()?;
    let inode = words.nth(2)?;
    let is_code = permissions == "r-xp" && inode != "0";
    Some(is_code.then_some(Mapping { start, end }))
}

#[expect(unsafe_code, reason = "only the kernel can unmap single pages")]
fn unmap(mapping: Mapping) -> usize {
    let Mapping { start, end } = mapping;
    let len = end.saturating_sub(start);
    let address = std::ptr::without_provenance_mut::<libc::c_void>(start);
    // SAFETY: madvise(2): pages of a private mapping of a file that differ in nothing from it are read from it again at the next
    // access, so what they hold stays what it was. Such are these: the kernel has just said that the mapping has no page of its own, and
    // nobody may write to it. It is still there, since nothing in this process unloads code.
    let result = unsafe { libc::madvise(address, len, libc::MADV_DONTNEED) };
    if result == 0 { len } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0000000-55d0c0400000 r--p 00000000 fe:00 1234                       /usr/bin/node-proxy
Size:               4096 kB
Rss:                1024 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55d0c0400000-55d0c0800000 r-xp 00400000 fe:00 1234                       /usr/bin/node-proxy (deleted)
Anonymous:             0 kB
55d0c0800000-55d0c0900000 r--p 00800000 fe:00 1234                       /usr/bin/node-proxy
Anonymous:           900 kB
7eff00000000-7eff00100000 r-xp 00001000 fe:00 77                         /usr/lib/libprobed.so
Anonymous:             4 kB
7fff00000000-7fff00002000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
55d0c0900000-55d0c0910000 rw-p 00900000 fe:00 1234                       /usr/bin/node-proxy
Anonymous:             0 kB
55d0c1000000-55d0c1100000 r--p 00000000 00:00 0                          [heap]
Anonymous:             0 kB
7f0000000000-7f0000001000 r--s 00000000 fe:00 99                         /var/shared
Anonymous:             0 kB
";

    #[test]
    fn only_unchanged_code_is_forgotten() {
        let found: Vec<_> = clean_code(SMAPS).collect();
        let wanted = Mapping {
            start: 0x55d0_c040_0000,
            end: 0x55d0_c080_0000,
        };
        assert_eq!(found, [wanted]);
        assert_eq!(clean_code("").count(), 0);
        assert_eq!(
            clean_code("55d0-zz r-xp\nAnonymous: 0 kB\nx-y\n").count(),
            0
        );
    }

    fn resident_files_kib() -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssFile:"));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    /// This program, too, goes on as if nothing had happened.
    #[test]
    fn what_is_given_back_is_not_resident_until_it_is_needed() {
        // The tests beside this one run code as well: once is enough.
        let shrinks = (0..5).any(|_| {
            let before = resident_files_kib();
            let len = give_back();
            assert!(len > 1024 * 1024, "{len}");
            resident_files_kib() < before
        });
        assert!(shrinks);
    }
}
