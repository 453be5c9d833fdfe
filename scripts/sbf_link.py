"""Link one relocatable BPF object into a program that Solana-family chains load (sBPF v0).

Upstream clang makes the object, but no upstream linker makes what the chain's loader wants: an ELF64 shared
object in which each call of a syscall is a dynamic relocation, read-only data follows the code, and file
offsets are addresses.

Handled: `.text`; `.rodata*`; R_BPF_64_64 (a 64-bit load of an address in read-only data); R_BPF_64_32 (a
call, of a function in `.text` or of an undefined symbol, which is then a syscall). Anything else is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

READ_ONLY_ADDRESS: Final = 0x1_0000_0000
"""Where the virtual machine maps the program's bytes."""
TEXT_OFFSET: Final = 0x120
"""Behind the ELF header and three program headers; as nothing is moved, also the address of the code."""

EM_BPF: Final = 247
ET_REL, ET_DYN = 1, 3
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_DYNAMIC, SHT_NOBITS, SHT_REL, SHT_DYNSYM = (
    1,
    2,
    3,
    4,
    6,
    8,
    9,
    11,
)
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
PT_LOAD, PT_DYNAMIC = 1, 2
PF_X, PF_W, PF_R = 1, 2, 4
R_BPF_64_64, R_BPF_64_32 = 1, 10
STT_SECTION: Final = 3
DT_NULL, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_REL, DT_RELSZ, DT_RELENT = 0, 5, 6, 10, 11, 17, 18, 19

_ELF_HEADER: Final = struct.Struct("<HHIQQQIHHHHHH")
_SECTION_HEADER: Final = struct.Struct("<IIQQQQIIQQ")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_CALL_BY_RELOCATION: Final = 0x10
"""The source register of a call that the loader resolves: BPF's pseudo call."""


class LinkError(Exception):
    """The object holds something that cannot become an on-chain program."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the object: its name, type, flags, alignment, the section it is about, and its bytes."""

    name: str
    type: int
    flags: int
    info: int
    alignment: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Symbol:
    """One symbol: the index of its section (0 = undefined), its type, and its value there."""

    name: str
    type: int
    section: int
    value: int


@dataclass(frozen=True, slots=True)
class _Placed:
    """One section of the output, at its place in the file."""

    name: str
    type: int
    flags: int
    offset: int
    data: bytes
    link: int = 0
    info: int = 0
    alignment: int = 8
    entry_size: int = 0

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


def link(object_file: bytes, entry: str = "entrypoint") -> bytes:
    """Link `object_file`, starting at the function `entry`. The same bytes give the same bytes.

    Raises `LinkError` for an object that is not BPF, or holds writable data, an unknown relocation or no
    `entry`.
    """
    sections, symbols = _read_object(object_file)
    text_index = _index_of(sections, ".text")
    text = bytearray(sections[text_index].data)
    rodata, rodata_offsets = _join_rodata(sections, text_index)
    rodata_start = _aligned(TEXT_OFFSET + len(text))
    syscalls: list[tuple[int, str]] = []
    for section in sections:
        if section.type == SHT_RELA:
            raise LinkError(f"{section.name}: relocations with addends are not what clang makes for BPF")
        if section.type != SHT_REL or section.info != text_index:
            continue
        for offset, info in struct.iter_unpack("<QQ", section.data):
            symbol = symbols[info >> 32]
            match info & 0xFFFFFFFF:
                case kind if kind == R_BPF_64_64:
                    if symbol.section not in rodata_offsets:
                        raise LinkError(f"{symbol.name or 'a symbol'} is loaded but is not read-only data")
                    base = READ_ONLY_ADDRESS + rodata_start + rodata_offsets[symbol.section] + symbol.value
                    _relocate_load(text, offset, base)
                case kind if kind == R_BPF_64_32 and symbol.section == 0:
                    _mark_syscall(text, offset)
                    syscalls.append((TEXT_OFFSET + offset, symbol.name))
                case kind if kind == R_BPF_64_32 and symbol.section == text_index:
                    _relocate_call(text, offset, symbol)
                case kind:
                    raise LinkError(f"relocation type {kind} against {symbol.name}")
    start = next((one.value for one in symbols if one.name == entry and one.section == text_index), None)
    if start is None:
        raise LinkError(f"no function {entry} in .text")
    return _write(bytes(text), rodata, rodata_start, syscalls, TEXT_OFFSET + start)


def _read_object(data: bytes) -> tuple[list[Section], list[Symbol]]:
    if data[:6] != b"\x7fELF\x02\x01":
        raise LinkError("not a little-endian ELF64 file")
    kind, machine, _, _, _, table, _, _, _, _, size, count, names = _ELF_HEADER.unpack_from(data, 16)
    if (kind, machine, size) != (ET_REL, EM_BPF, _SECTION_HEADER.size):
        raise LinkError("not a relocatable BPF object")
    headers = [_SECTION_HEADER.unpack_from(data, table + i * size) for i in range(count)]
    contents = [b"" if h[1] == SHT_NOBITS else data[h[4] : h[4] + h[5]] for h in headers]
    sections = [
        Section(_text(contents[names], h[0]), h[1], h[2], h[7], max(h[8], 1), content)
        for h, content in zip(headers, contents, strict=True)
    ]
    for header, section in zip(headers, sections, strict=True):
        if header[1] == SHT_NOBITS and header[5]:
            raise LinkError(f"{section.name}: writable data does not exist on the chain")
    table_index = next((i for i, h in enumerate(headers) if h[1] == SHT_SYMTAB), None)
    if table_index is None:
        raise LinkError("no symbols")
    strings = contents[headers[table_index][6]]
    symbols = [
        Symbol(_text(strings, name), info & 15, section, value)
        for name, info, _, section, value, _ in _SYMBOL.iter_unpack(contents[table_index])
    ]
    return sections, symbols


def _text(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(0, offset)].decode()


def _index_of(sections: list[Section], name: str) -> int:
    for index, section in enumerate(sections):
        if section.name == name:
            return index
    raise LinkError(f"no section {name}")


def _aligned(offset: int, to: int = 8) -> int:
    return offset + -offset % to


def _join_rodata(sections: list[Section], text_index: int) -> tuple[bytes, dict[int, int]]:
    joined = bytearray()
    offsets: dict[int, int] = {}
    for index, section in enumerate(sections):
        if not section.flags & SHF_ALLOC or not section.data or index == text_index:
            continue
        if section.name.startswith(".eh_frame"):
            continue
        if section.flags & SHF_WRITE or not section.name.startswith(".rodata"):
            raise LinkError(f"{section.name}: writable data does not exist on the chain")
        joined += bytes(-len(joined) % section.alignment)
        offsets[index] = len(joined)
        joined += section.data
    joined += bytes(-len(joined) % 8)
    return bytes(joined), offsets


def _relocate_load(text: bytearray, offset: int, base: int) -> None:
    """A 64-bit load keeps its addend in two 32-bit halves, in two instruction words."""
    (low,) = struct.unpack_from("<I", text, offset + 4)
    (high,) = struct.unpack_from("<I", text, offset + 12)
    address = base + (high << 32 | low)
    struct.pack_into("<I", text, offset + 4, address & 0xFFFFFFFF)
    struct.pack_into("<I", text, offset + 12, address >> 32)


def _mark_syscall(text: bytearray, offset: int) -> None:
    struct.pack_into("<i", text, offset + 4, -1)
    text[offset + 1] = text[offset + 1] & 0x0F | _CALL_BY_RELOCATION


def _relocate_call(text: bytearray, offset: int, symbol: Symbol) -> None:
    (words,) = struct.unpack_from("<i", text, offset + 4)
    # Against the section, the target stands in the instruction, counted in words from the next one.
    target = symbol.value + (words + 1) * 8 if symbol.type == STT_SECTION else symbol.value
    struct.pack_into("<i", text, offset + 4, (target - (offset + 8)) // 8)


def _write(
    text: bytes, rodata: bytes, rodata_start: int, syscalls: list[tuple[int, str]], entry: int
) -> bytes:
    placed = [_Placed(".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, TEXT_OFFSET, text)]
    if rodata:
        placed.append(_Placed(".rodata", SHT_PROGBITS, SHF_ALLOC, rodata_start, rodata))
    loaded_end = rodata_start + len(rodata)
    segments = [(PT_LOAD, PF_R | PF_X, TEXT_OFFSET, loaded_end - TEXT_OFFSET, 4096)]
    if syscalls:  # the loader refuses an empty relocation table, so a program without syscalls has none
        dynamic = _dynamic_sections(loaded_end, first_index=len(placed) + 1, syscalls=syscalls)
        placed += dynamic
        tables_start, tables_end = dynamic[1].offset, dynamic[-1].end
        segments.append((PT_LOAD, PF_R, tables_start, tables_end - tables_start, 4096))
        segments.append((PT_DYNAMIC, PF_R | PF_W, dynamic[0].offset, len(dynamic[0].data), 8))
    return _assemble(placed, segments, entry)


def _dynamic_sections(start: int, first_index: int, syscalls: list[tuple[int, str]]) -> list[_Placed]:
    names = list(dict.fromkeys(name for _, name in syscalls))
    strings, table = b"\0", bytes(_SYMBOL.size)
    for name in names:
        table += _SYMBOL.pack(len(strings), 0x10, 0, 0, 0, 0)
        strings += name.encode() + b"\0"
    strings += bytes(-len(strings) % 8)
    relocations = b"".join(
        struct.pack("<QQ", offset, names.index(name) + 1 << 32 | R_BPF_64_32) for offset, name in syscalls
    )
    symbols_at = start + 8 * 16
    strings_at = symbols_at + len(table)
    relocations_at = strings_at + len(strings)
    entries = (
        (DT_SYMTAB, symbols_at),
        (DT_SYMENT, _SYMBOL.size),
        (DT_STRTAB, strings_at),
        (DT_STRSZ, len(strings)),
        (DT_REL, relocations_at),
        (DT_RELSZ, len(relocations)),
        (DT_RELENT, 16),
        (DT_NULL, 0),
    )
    dynamic = b"".join(struct.pack("<QQ", *one) for one in entries)
    symbols, text = first_index + 1, first_index + 2
    return [
        _Placed(".dynamic", SHT_DYNAMIC, SHF_WRITE | SHF_ALLOC, start, dynamic, link=text, entry_size=16),
        _Placed(".dynsym", SHT_DYNSYM, SHF_ALLOC, symbols_at, table, link=text, info=1, entry_size=24),
        _Placed(".dynstr", SHT_STRTAB, SHF_ALLOC, strings_at, strings, alignment=1),
        _Placed(".rel.dyn", SHT_REL, SHF_ALLOC, relocations_at, relocations, link=symbols, entry_size=16),
    ]


def _assemble(placed: list[_Placed], segments: list[tuple[int, int, int, int, int]], entry: int) -> bytes:
    names = b"\0" + b"".join(one.name.encode() + b"\0" for one in placed)
    name_of_names = len(names)
    names += b".shstrtab\0"
    placed = [*placed, _Placed(".shstrtab", SHT_STRTAB, 0, placed[-1].end, names, alignment=1)]
    headers_at = _aligned(placed[-1].end)
    out = bytearray(headers_at)
    for one in placed:
        out[one.offset : one.end] = one.data
    out += bytes(_SECTION_HEADER.size)  # the null section
    name = 1
    for one in placed:
        address = one.offset if one.flags & SHF_ALLOC else 0
        out += _SECTION_HEADER.pack(
            name_of_names if one.name == ".shstrtab" else name,
            one.type,
            one.flags,
            address,
            one.offset,
            len(one.data),
            one.link,
            one.info,
            one.alignment,
            one.entry_size,
        )
        name += len(one.name) + 1
    table = b"".join(
        _PROGRAM_HEADER.pack(kind, flags, offset, offset, offset, size, size, alignment)
        for kind, flags, offset, size, alignment in segments
    )
    if 64 + len(table) > TEXT_OFFSET:
        raise LinkError("the program headers run into the code")
    header = _ELF_HEADER.pack(
        ET_DYN, EM_BPF, 1, entry, 64, headers_at, 0, 64, 56, len(segments), 64, len(placed) + 1, len(placed)
    )
    out[:64] = b"\x7fELF\x02\x01\x01" + bytes(9) + header
    out[64 : 64 + len(table)] = table
    return bytes(out)
