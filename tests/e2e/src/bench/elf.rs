//! Where a function lies in a program's file: the little of ELF (64 bit, little endian) that a probe needs.

/// The offset in the file of the first function whose name is wanted.
pub(super) fn function_offset(file: &[u8], is_wanted: impl Fn(&str) -> bool) -> Option<u64> {
    (file.get(..6)? == b"\x7fELF\x02\x01").then_some(())?;
    let sections: Vec<Section> = table(
        file,
        word(file, 0x28)?,
        half(file, 0x3a)?,
        half(file, 0x3c)?,
    )?
    .map(Section::read)
    .collect::<Option<_>>()?;
    let symbols = sections.iter().find(|section| section.kind == SYMBOLS)?;
    let names = sections
        .get(usize::try_from(symbols.link).ok()?)?
        .bytes(file)?;
    let address = symbols
        .bytes(file)?
        .chunks_exact(SYMBOL_LEN)
        .find_map(|symbol| {
            let is_function = symbol.get(4)? & 0xf == FUNCTION;
            let name = names.get(usize::try_from(int(symbol, 0)?).ok()?..)?;
            let name = name.split(|byte| *byte == 0).next()?;
            let name = std::str::from_utf8(name).ok()?;
            (is_function && is_wanted(name)).then(|| word(symbol, 8))?
        })?;
    // The symbol has the address in memory; the segment that it lies in says where that is in the file.
    let segments = table(
        file,
        word(file, 0x20)?,
        half(file, 0x36)?,
        half(file, 0x38)?,
    )?;
    segments.into_iter().find_map(|segment| {
        let (offset, start) = (word(segment, 8)?, word(segment, 16)?);
        let inside = address.checked_sub(start)?;
        (int(segment, 0)? == LOADED && inside < word(segment, 32)?).then_some(offset + inside)
    })
}

struct Section {
    kind: u32,
    offset: u64,
    len: u64,
    link: u32,
}

impl Section {
    fn read(header: &[u8]) -> Option<Section> {
        Some(Section {
            kind: int(header, 4)?,
            offset: word(header, 24)?,
            len: word(header, 32)?,
            link: int(header, 40)?,
        })
    }

    fn bytes<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        file.get(start..start.checked_add(usize::try_from(self.len).ok()?)?)
    }
}

/// The entries of a table in the file.
fn table(
    file: &[u8],
    offset: u64,
    len: u16,
    count: u16,
) -> Option<std::slice::ChunksExact<'_, u8>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::from(len) * usize::from(count))?;
    (len > 0).then_some(())?;
    Some(file.get(start..end)?.chunks_exact(usize::from(len)))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

const SYMBOLS: u32 = 2;
const SYMBOL_LEN: usize = 24;
const FUNCTION: u8 = 2;
const LOADED: u32 = 1;
