"""A filter of system calls for Linux (seccomp), in force for this process and whatever it starts, also for root.

Used by the jail alone, under an interpreter without site packages: standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from typing import Final

# Network, processes, signals to others, their memory, limits, mounts, and changes of files. Numbers are of the kernel.
X86_64: Final = (
    *(41, 42, 43, 44, 45, 46, 47, 49, 50, 53, 288, 299, 307),  # sockets
    *(57, 58, 59, 322),  # fork vfork execve execveat
    *(62, 200, 234, 129, 297, 424),  # kill tkill tgkill sigqueue pidfd_send_signal
    *(101, 310, 311, 438),  # ptrace process_vm pidfd_getfd
    *(160, 302, 165, 166, 161, 155, 272, 308, 169, 250, 321, 298, 323, 425, 426, 427, 175, 313, 246, 320),
    *(76, 77, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 133, 188, 189, 190, 197, 198, 199),  # files by path
    *(258, 259, 260, 263, 264, 265, 266, 268, 280, 316, 132, 235, 261, 452),  # and beside a folder
)
AARCH64: Final = (
    *(198, 199, 200, 201, 202, 203, 206, 207, 211, 212, 242, 243, 269),
    *(221, 281),
    *(129, 130, 131, 138, 240, 424),
    *(117, 270, 271, 438),
    *(164, 261, 40, 39, 51, 41, 97, 268, 142, 219, 280, 241, 282, 425, 426, 427, 105, 273, 104, 294),
    *(45, 46, 33, 34, 35, 36, 37, 38, 276, 52, 53, 54, 55, 5, 6, 7, 14, 15, 16, 88, 452),
)
# architecture: its number in the filter, what is forbidden, clone, openat, open (which aarch64 has not)
MACHINES: Final = {
    "x86_64": (0xC000003E, X86_64, 56, 257, 2),
    "aarch64": (0xC00000B7, AARCH64, 220, 56, None),
}
CLONE3, OPENAT2 = 435, 437  # their flags lie in memory, where a filter cannot look; libraries fall back to the old call
CLONE_THREAD = 0x10000

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
NUMBER, ARCHITECTURE = 0, 4  # offsets in what the filter sees


def forbid() -> None:
    """Put the filter on. On a processor that is not listed, or a kernel without filters, there is none."""
    machine = MACHINES.get(os.uname().machine)
    if machine is None or sys.maxsize < 2**32:
        return
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _filter(*machine))
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None)
    no_new_privileges, seccomp, by_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0:
        libc.prctl(seccomp, by_filter, ctypes.byref(header), 0, 0)


Instruction = tuple[int, int, int, int]  # code, skipped if true, skipped if false, operand


def _filter(
    architecture: int, forbidden: tuple[int, ...], clone: int, openat: int, open_: int | None
) -> list[Instruction]:
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    steps: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_AT_LEAST, 0, 1, 0x40000000),  # the x32 interface has other numbers for the same calls
        (RETURN, 0, 0, EPERM),
    ]
    for number in forbidden:
        steps += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, EPERM)]
    for number in (CLONE3, OPENAT2):
        steps += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ENOSYS)]
    steps += _by_flags(clone, 0, CLONE_THREAD, if_any=ALLOW, if_none=EPERM)
    steps += _by_flags(openat, 2, writing, if_any=EPERM, if_none=ALLOW)
    if open_ is not None:
        steps += _by_flags(open_, 1, writing, if_any=EPERM, if_none=ALLOW)
    return [*steps, (RETURN, 0, 0, ALLOW)]


def _by_flags(number: int, argument: int, bits: int, *, if_any: int, if_none: int) -> list[Instruction]:
    """For one call, by the low half of one of its arguments."""
    return [
        (JUMP_EQUAL, 0, 4, number),
        (LOAD, 0, 0, 16 + 8 * argument),
        (JUMP_ANY_BIT, 0, 1, bits),
        (RETURN, 0, 0, if_any),
        (RETURN, 0, 0, if_none),
    ]
