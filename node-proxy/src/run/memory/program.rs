//! The program's own pages: code and constants that were needed once.
//!
//! Starting reads certificates, parses the kernel's types, loads programs and takes in a whole mesh; most of that code never runs
//! again, yet its pages stay mapped, and they are most of what an idle proxy is resident with. Unmapped, they cost nobody anything until
//! they are needed: the kernel has them in its cache of files, and may let them go there. Whoever reads `RSS`, or the working
//! set by which Kubernetes evicts, then sees what the proxy works with.

use std::fs;

/// Unmaps the code and constants of the program and its libraries where they are equal to their files; what runs on maps those pages again that
/// it needs.
///
/// Says how many bytes of address space were looked at; 0 if the kernel does not tell what is mapped.
pub(super) fn give_back() -> usize {
    let Ok(text) = fs::read_to_string("/proc/self/smaps") else {
        return 0;
    };
    clean_program(&mappings(&text)).map(unmap).sum()
}

/// Address space that shows a part of a file, as proc_pid_smaps(5) tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping<'a> {
    start: usize,
    end: usize,
    permissions: &'a str,
    inode: &'a str,
    /// No page differs from the file's.
    is_clean: bool,
}

/// The parts of loaded programs whose pages may be forgotten without losing anything: code, and the constants beside it.
///
/// Nobody unmaps those as long as the process lives, which may happen to other files that somebody reads in passing. None has a page of its
/// own, such as relocated tables, or code in which a debugger or a probe has put a breakpoint.
fn clean_program<'a>(all: &'a [Mapping<'a>]) -> impl Iterator<Item = Mapping<'a>> {
    let is_code = |at: Option<usize>, of: &Mapping<'_>| {
        let beside = at.and_then(|at| all.get(at));
        beside.is_some_and(|m| m.is_code() && m.inode == of.inode && m.touches(of))
    };
    let is_program = move |(at, mapping): &(usize, &Mapping<'_>)| {
        let is_beside = || is_code(at.checked_sub(1), mapping) || is_code(Some(at + 1), mapping);
        mapping.is_code() || (mapping.permissions == "r--p" && is_beside())
    };
    let program = all.iter().enumerate().filter(is_program);
    program.map(|(_, mapping)| *mapping).filter(|m| m.is_clean)
}

fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut all: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::of_head(line) {
            all.push(mapping);
        } else if let Some(own) = line.strip_prefix("Anonymous:")
            && let Some(last) = all.last_mut()
        {
            last.is_clean = own.trim() == "0 kB";
        }
    }
    all
}

impl<'a> Mapping<'a> {
    /// From its first line: `start-end permissions offset device inode path`.
    fn of_head(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        Some(Mapping {
            start: usize::from_str_radix(start, 16).ok()?,
            end: usize::from_str_radix(end, 16).ok()?,
            permissions: words.next()?,
            inode: words.nth(2)?,
            is_clean: false,
        })
    }

    fn is_code(&self) -> bool {
        self.permissions == "r-xp" && self.inode != "0"
    }

    fn touches(&self, other: &Mapping<'_>) -> bool {
        self.end == other.start || other.end == self.start
    }
}

#[expect(unsafe_code, reason = "only the kernel can unmap single pages")]
fn unmap(mapping: Mapping<'_>) -> usize {
    let Mapping { start, end, .. } = mapping;
    let len = end.saturating_sub(start);
    let address = std::ptr::without_provenance_mut::<libc::c_void>(start);
    // SAFETY: madvise(2): pages of a private mapping of a file that differ in nothing from it are read from it again at the next
    // access, so what they hold stays what it was. Such are these: the kernel has just said that the mapping has no page of its own, and
    // nobody may write to it. It is still there, since nothing in this process unloads a program.
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
55d0c0900000-55d0c0910000 rw-p 00900000 fe:00 1234                       /usr/bin/node-proxy
Anonymous:             0 kB
55d0c1000000-55d0c1100000 r--p 00000000 00:00 0                          [heap]
Anonymous:             0 kB
7efe00000000-7efe00100000 r--p 00001000 fe:00 1234                       /usr/bin/node-proxy
Anonymous:             0 kB
7eff00000000-7eff00100000 r-xp 00001000 fe:00 77                         /usr/lib/libprobed.so
Anonymous:             4 kB
7f0000000000-7f0000001000 r--s 00000000 fe:00 99                         /var/shared
Anonymous:             0 kB
7fff00000000-7fff00002000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
";

    #[test]
    fn only_what_is_unchanged_of_programs_is_forgotten() {
        let all = mappings(SMAPS);
        assert_eq!(all.len(), 9);
        let found: Vec<_> = clean_program(&all).map(|m| (m.start, m.end)).collect();
        let wanted = [
            (0x55d0_c000_0000, 0x55d0_c040_0000),
            (0x55d0_c040_0000, 0x55d0_c080_0000),
        ];
        assert_eq!(found, wanted);
        assert_eq!(mappings("").len(), 0);
        assert_eq!(
            mappings("Anonymous: 0 kB\n55d0-zz r-xp 0 0 1\nx-y\n").len(),
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
