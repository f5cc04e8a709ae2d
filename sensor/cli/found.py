"""Detections, from the running sensor or, where it does not answer, from the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sensor.cli.reach import escaped, row, rows, say
from sensor.cli.show import Row, whole
from sensor.errors import NotFoundError, PinfoldError, UnreachableError, UsageError

if TYPE_CHECKING:
    from sensor.cli.choose import Filter
    from sensor.config import Config

MOST = 1000  # that the sensor gives at once
_SHOWN = 8
UNKNOWN = "unknown"  # whether it was acknowledged, where the sensor is not there to ask
_RESPONSES = 100_000  # remembered of the log, until the detection that they follow


class Wanted:
    """`since_ns`: UTC, or 0. `number`: how many, the latest."""

    def __init__(
        self, sandbox: str | None = None, level: str | None = None, rule: str | None = None, since_ns: int = 0,
        number: int = MOST,
    ) -> None:  # fmt: skip
        from sensor.cli.choose import Filter  # noqa: PLC0415

        self.sandbox, self.level, self.rule = sandbox, level, rule
        self.number = number
        self.since = _timestamp(since_ns) if since_ns > 0 else ""
        self._filter: Filter = Filter(kind="detection", level=level, rule=rule)

    def takes(self, record: Row) -> bool:
        return (
            self._filter.fits(record)
            and (self.sandbox is None or self.sandbox in (record.get("SandboxName"), str(record.get("SandboxId"))))
            and str(record.get("time", "")) >= self.since
        )


class Detections:
    """`unredacted`: from the log alone, since the sensor tells no secrets."""

    def __init__(self, config: Config, unredacted: bool = False) -> None:
        from sensor.control.client import Client  # noqa: PLC0415

        self._config = config
        self._unredacted = unredacted
        self.client = Client.of(config)

    def some(self, wanted: Wanted) -> list[Row]:
        """Oldest first."""
        if self._unredacted:
            return logged(self._config, wanted)
        try:
            found = [one for one in self._asked(wanted) if wanted.takes(one)]
            silences = rows(self.client.get("/v1/silences"), "silences") if found else []
        except UnreachableError as why:
            say(f"{why}; reading the log")
            return logged(self._config, wanted)
        found = [{**one, "silenced": silence} if (silence := silencing(one, silences)) else one for one in found]
        return sorted(found, key=lambda one: str(one.get("time", "")))[-wanted.number :]

    def one(self, word: str) -> Row:
        """By its id, or the beginning of it where no other begins so.

        :raises NotFoundError:
        :raises UsageError: several begin so.
        """
        if not self._unredacted:
            try:
                return self._followed(self._told(word))
            except UnreachableError as why:
                say(f"{why}; reading the log")
        found = logged(self._config, Wanted(number=MOST), begin=word)
        full = self._meant(word, found)
        return next(one for one in found if one.get("id") == full)

    def _told(self, word: str) -> Row:
        try:
            return row(self.client.get(f"/v1/detections/{escaped(word)}"))
        except NotFoundError:
            full = self._meant(word, rows(self.client.get("/v1/detections", limit=MOST), "detections"))
            return row(self.client.get(f"/v1/detections/{escaped(full)}"))

    def _followed(self, found: Row) -> Row:
        """With the responses to it, where the sensor tells none and the log is ours to read."""
        if "responses" in found:
            return found
        id_, since = str(found.get("id")), str(found.get("time"))
        try:
            again = next((one for one in logged(self._config, Wanted(number=1), begin=id_, until=since)), {})
        except (PinfoldError, OSError):
            return found  # `describe` does not say that nothing was done
        return {**found, "responses": again["responses"]} if again else found

    def identity(self, word: str) -> str:
        """The whole id of what is meant. Needs the sensor."""
        if "/" in word:
            return word
        return self._meant(word, rows(self.client.get("/v1/detections", limit=MOST), "detections"))

    def _asked(self, wanted: Wanted) -> list[Row]:
        query: dict[str, str | int] = {
            name: value for name in ("sandbox", "level", "rule") if (value := getattr(wanted, name)) is not None
        }
        limit = MOST if wanted.since else wanted.number
        try:
            return rows(self.client.get("/v1/detections", **query, limit=limit), "detections")
        except NotFoundError:
            # The sandbox has ended, and its name with it; what was detected in it stays.
            query.pop("sandbox", None)
            return rows(self.client.get("/v1/detections", **query, limit=MOST), "detections")

    def _meant(self, word: str, found: list[Row]) -> str:
        ids = sorted({str(one.get("id")) for one in found if str(one.get("id", "")).startswith(word)})
        if not word or not ids:
            raise NotFoundError(f"no detection {word!r}; see pinfold detections list")
        if word in ids:
            return word
        if len(ids) > 1:
            raise UsageError(f"{len(ids)} detections begin with {word!r}: {', '.join(ids[:_SHOWN])}")
        return ids[0]


def logged(config: Config, wanted: Wanted, begin: str = "", until: str = "") -> list[Row]:
    """Of the log, oldest first, each with the responses that followed. `until`: a time; older ones are not looked
    for."""
    from sensor.cli.choose import parsed  # noqa: PLC0415
    from sensor.cli.events import log_path, readable  # noqa: PLC0415
    from sensor.export.reader import backwards  # noqa: PLC0415

    path = log_path(config)
    readable(path)
    found: list[Row] = []
    responses: dict[str, list[Row]] = {}
    acks, silences = _said(config)
    for line in backwards(path):
        if b'"kind":"detection"' not in line[:64] and b'"kind":"response"' not in line[:64]:
            continue
        record = parsed(line)
        if record.get("kind") == "response":
            if len(responses) < _RESPONSES:
                responses.setdefault(str(record.get("detection")), []).insert(0, record)
        elif wanted.takes(record) and str(record.get("id", "")).startswith(begin):
            followed = responses.pop(str(record.get("id")), [])
            ack = UNKNOWN if acks is None else acks.get(str(record.get("id")))
            said = {"acknowledged": ack, "silenced": silencing(record, silences)}
            found.append({**record, **said, "responses": followed})
            if len(found) == wanted.number:
                break
        elif record and str(record.get("time", "9")) < max(wanted.since, until):
            break  # a detection's time is when it was logged
    return found[::-1]


def _said(config: Config) -> tuple[Row | None, list[Row]]:
    """Acknowledgements and silences, as the sensor has kept them; None where they cannot be read."""
    import msgspec  # noqa: PLC0415

    from sensor.respond.silences import read  # noqa: PLC0415

    try:
        return read(config.paths.state)
    except (OSError, msgspec.MsgspecError) as why:
        say(f"what was acknowledged and silenced cannot be read: {why}")
        return None, []


def silencing(record: Row, silences: list[Row]) -> str:
    """The id of the silence that the detection falls under, or ""."""
    rule = record.get("rule")
    rule = rule if isinstance(rule, dict) else {}
    at = str(record.get("time", ""))
    for one in silences:
        of_rule, of_sandbox, of_class = one.get("rule"), one.get("sandbox"), one.get("class")
        if (
            (not of_rule or of_rule in (rule.get("id"), rule.get("title")))
            and (not of_sandbox or str(of_sandbox) in (str(record.get("SandboxId")), record.get("SandboxName")))
            and (not of_class or of_class == record.get("SandboxClass"))
            and _timestamp(whole(one.get("from_ns"))) <= at < _timestamp(whole(one.get("until_ns")))
        ):
            return str(one.get("id"))
    return ""


def acknowledged(record: Row) -> bool:
    return any(record.get(name) not in (None, "", False, [], {}, UNKNOWN) for name in ("ack", "acks", "acknowledged"))


def silenced(record: Row) -> bool:
    return bool(record.get("silenced") or record.get("silence"))


def short_ids(found: list[Row]) -> dict[str, str]:
    """The shortest beginning that tells each id from the others shown: the event's, or some of the rule's too."""
    events: dict[str, int] = {}
    for one in found:
        event = str(one.get("id", "")).partition("/")[0]
        events[event] = events.get(event, 0) + 1
    short: dict[str, str] = {}
    for one in found:
        whole = str(one.get("id", ""))
        event, _, rule = whole.partition("/")
        short[whole] = event if events[event] == 1 or not rule else f"{event}/{rule[:8]}"
    return short


def _timestamp(time_ns: Any) -> str:
    from sensor.export.lines import Timestamps  # noqa: PLC0415

    return Timestamps()(time_ns)
