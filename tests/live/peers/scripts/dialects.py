"""What miners and pools say in each dialect of Stratum that is JSON in lines."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Any, NamedTuple

Message = dict[str, Any]
AGENT, WALLET = "worker/1.0", "4" + "A" * 94
PROOF_BYTES = 15_000  # a proof of work that is a matrix product is long


class Dialect(NamedTuple):
    hello: tuple[Message, ...]  # by the miner
    share: Callable[[int], Message]  # the miner's, for the job of that number
    alive: Message | None  # the miner's, while it has no share
    job: Callable[[int], Message]  # pushed by the pool
    result: Any = True  # of what the miner asks, unless `results` has its method
    results: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def answer(self, request: Message) -> Message:
        result = self.results.get(request["method"], self.result)
        return {"id": request["id"], "jsonrpc": "2.0", "result": result, "error": None}

    def is_job(self, message: Message) -> bool:
        pushed = self.job(0)
        return message.get("method") == pushed.get("method") and type(message.get("result")) is type(
            pushed.get("result")
        )


def random_hex(length: int) -> str:
    return os.urandom(length).hex()


def request(number: int, method: str, params: object, **more: object) -> Message:
    return {"id": number, "method": method, "params": params, **more}


def pushed(method: str, params: object) -> Message:
    return {"id": None, "method": method, "params": params}


def proof() -> str:
    return base64.b64encode(os.urandom(PROOF_BYTES)).decode()


DIALECTS = {
    "bitcoin": Dialect(
        hello=(
            request(1, "mining.subscribe", [AGENT]),
            request(2, "mining.authorize", [WALLET, "x"]),
            request(3, "mining.extranonce.subscribe", []),
        ),
        share=lambda n: request(10 + n, "mining.submit", [WALLET, f"{n:x}", "00000001", random_hex(4), random_hex(4)]),
        alive=None,
        job=lambda n: pushed(
            "mining.notify", [f"{n:x}", random_hex(32), random_hex(60), "", [], "20000000", "", "", True]
        ),
        results={"mining.subscribe": [[["mining.set_difficulty", "1"], ["mining.notify", "1"]], "08000002", 4]},
    ),
    "ethereum-stratum": Dialect(
        hello=(
            request(1, "mining.subscribe", [AGENT, "EthereumStratum/1.0.0"]),
            request(2, "mining.authorize", [f"0x{'ab' * 20}.rig", "x"]),
        ),
        share=lambda n: request(10 + n, "mining.submit", [f"0x{'ab' * 20}.rig", f"{n:x}", random_hex(5)]),
        alive=request(9, "eth_submitHashrate", ["0x1f4", "0x" + "00" * 32]),
        job=lambda n: pushed("mining.notify", [f"{n:x}", random_hex(32), random_hex(32), True]),
        results={"mining.subscribe": [["mining.notify", "ab", "EthereumStratum/1.0.0"], "080c"]},
    ),
    "eth-proxy": Dialect(
        hello=(
            request(1, "eth_submitLogin", [f"0x{'ab' * 20}"], worker="rig", jsonrpc="2.0"),
            request(2, "eth_getWork", [], jsonrpc="2.0"),
        ),
        share=lambda n: request(10 + n, "eth_submitWork", ["0x" + random_hex(length) for length in (8, 32, 32)]),
        alive=request(9, "eth_submitHashrate", ["0x1f4", "0x" + "00" * 32], worker="rig", jsonrpc="2.0"),
        job=lambda n: {"id": 0, "jsonrpc": "2.0", "result": ["0x" + random_hex(32) for _ in range(3)]},
    ),
    "monero": Dialect(
        hello=(
            request(
                1, "login", {"login": WALLET, "pass": "x", "agent": AGENT, "algo": ["rx/0", "cn/r"]}, jsonrpc="2.0"
            ),
        ),
        share=lambda n: request(
            10 + n,
            "submit",
            {"id": "rig", "job_id": f"{n:x}", "nonce": random_hex(4), "result": random_hex(32)},
            jsonrpc="2.0",
        ),
        alive=request(9, "keepalived", {"id": "rig"}, jsonrpc="2.0"),
        job=lambda n: {
            "jsonrpc": "2.0",
            "method": "job",
            "params": {"blob": random_hex(76), "job_id": f"{n:x}", "target": "b88d0600", "algo": "rx/0", "height": n},
        },
        result={"status": "OK"},
        results={"login": {"id": "rig", "job": {"blob": random_hex(76), "job_id": "0"}, "status": "OK"}},
    ),
    "named-params": Dialect(
        hello=(
            request(1, "mining.subscribe", {"agent": AGENT, "protocol": 1}),
            request(2, "mining.authorize", {"wallet": WALLET, "worker": "rig"}),
        ),
        share=lambda n: request(10 + n, "mining.submit", {"job_id": f"{n:x}", "plain_proof": proof()}),
        alive=None,
        job=lambda n: pushed("mining.notify", {"job_id": f"{n:x}", "header": random_hex(80), "target": "00ff" * 16}),
    ),
}  # fmt: skip
