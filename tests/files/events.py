"""Events as the kernel writes them (include/uapi/linux/fanotify.h), and a sensor's parts around them."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

from sensor.configfiles import Files
from sensor.enrich.enricher import Enricher
from sensor.enrich.processes import EntryProgram, Process, ProcessTable
from sensor.files import fanotify
from sensor.files.marker import Answer
from sensor.files.places import Watched
from sensor.files.telling import Telling
from sensor.files.views import Views
from sensor.files.whose import Batch
from sensor.rules.places import Place

FID, DFID_NAME, PIDFD, OLD, NEW = 1, 2, 4, 10, 12
TGID, SANDBOX = 100, 7
VIEW = (1, 2, 3)


def key(number: int) -> bytes:
    """fsid, length, type, handle."""
    return struct.pack("=QIiQ", 99, 8, 1, number)


def info(kind: int, number: int, name: bytes = b"") -> bytes:
    body = key(number) + (name + b"\0" if kind != FID else b"")
    body += bytes(-len(body) % 4)
    return struct.pack("=BBH", kind, 0, len(body) + 4) + body


def pidfd(number: int) -> bytes:
    return struct.pack("=BBHi", PIDFD, 0, 8, number)


def raw(mask: int, *infos: bytes, tgid: int = TGID) -> bytes:
    body = b"".join(infos)
    return struct.pack("=IBBHQii", 24 + len(body), 3, 0, 24, mask, -1, tgid) + body


def batch(*data: bytes, since_ns: int = 10, until_ns: int = 20) -> Batch:
    return Batch(list(fanotify.events(b"".join(data))), since_ns, until_ns)


def give(told: Telling, read: Batch) -> None:
    for event in read.events:
        told.event(event, read)


def process(tgid: int = TGID, sandbox_id: int = SANDBOX) -> Process:
    made = Process(tgid, 5, 1, sandbox_id, sandbox_id, 1, None, EntryProgram(tgid, 5))
    made.image = "/usr/bin/dash"
    return made


def telling(*folders: tuple[int, str], places: tuple[Place, ...] = (), **settings: int) -> tuple[Telling, Views]:
    """With folders by the number of their key, in the root of one sandbox with one process."""
    table = ProcessTable(64)
    table.found(process())
    sandboxes = SimpleNamespace(get=lambda id_: SimpleNamespace(id=id_, name="box", class_="default"))
    enricher = SimpleNamespace(processes=table, sandboxes=sandboxes, utc=lambda ns: ns)
    views = Views()
    marks = tuple((key(number).hex(), path, True, False) for number, path in folders)
    views.learn(SANDBOX, Answer("done", VIEW, marks, ("/home/agent/.claude",)))
    watched = Watched(places, (), 100)
    return Telling(Files(**cast("dict[str, Any]", settings)), cast(Enricher, enricher), watched, views), views
