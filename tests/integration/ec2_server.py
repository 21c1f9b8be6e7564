"""AWS as moto plays it, on the client's machine of a world, with a market: ``python ec2_server.py ADDRESS FOLDER``.

Only for a world without a way out: the addresses that moto gives machines are other people's.

``FOLDER/market.json`` says how many machines of each kind there are (``{"spot": 2, "on_demand": 1}``): a launch gets
what is left of them, as EC2 gives up to MaxCount. ``FOLDER/instances.json`` and ``objects.json`` say what there is,
``launches.jsonl`` what was asked for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.responses.instances import InstanceResponse
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

ACCOUNT, REGION = "123456789012", "us-west-2"
_ask, _run = InstanceResponse._get_param, InstanceResponse.run_instances


def living(kind: str) -> int:
    """How many machines of a kind are not terminated."""
    machines = ec2_backends[ACCOUNT][REGION].all_instances()
    alive = [each for each in machines if each._state.name in ("pending", "running")]
    return sum(("spot" if each.lifecycle == "spot" else "on_demand") == kind for each in alive)


def run_instances(self: Any) -> Any:
    kind = "spot" if _ask(self, "InstanceMarketOptions.MarketType", {}) == "spot" else "on_demand"
    wanted = int(_ask(self, "MaxCount"))
    left = json.loads((folder / "market.json").read_text())[kind] - living(kind)
    given = max(0, min(wanted, left))
    zone = ec2_backends[ACCOUNT][REGION].get_subnet(_ask(self, "SubnetId")).availability_zone
    launch = {"kind": kind, "wanted": wanted, "given": given, "zone": zone, "time": time.time()}
    with (folder / "launches.jsonl").open("a") as file:
        file.write(json.dumps(launch) + "\n")
    if not given:
        raise EC2ClientError("InsufficientInstanceCapacity", f"There is no {kind} capacity in {zone}.")
    self.given = given
    before = {each.id for each in ec2_backends[ACCOUNT][REGION].all_instances()}
    answer = _run(self)
    for each in ec2_backends[ACCOUNT][REGION].all_instances():
        if each.id not in before:
            profiles[each.id] = _ask(self, "IamInstanceProfile.Name") or ""
    return answer


def get_param(self: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """moto makes MinCount machines."""
    return self.given if name == "MinCount" and hasattr(self, "given") else _ask(self, name, *arguments, **options)


def tell(name: str, what: Any) -> None:
    """Replace a file of the folder."""
    new = folder / f"{name}.new"
    new.write_text(json.dumps(what))
    os.replace(new, folder / name)


def main(address: str) -> None:
    InstanceResponse.run_instances, InstanceResponse._get_param = run_instances, get_param
    server = ThreadedMotoServer(address, 5000, verbose=False)
    server.start()
    while True:
        machines = [
            {
                "id": each.id,
                "ip": each.private_ip,
                "state": each._state.name,
                "kind": "spot" if each.lifecycle == "spot" else "on_demand",
                "profile": profiles.get(each.id, ""),
                "tags": {tag["key"]: tag["value"] for tag in each.get_tags()},
            }
            for each in list(ec2_backends[ACCOUNT][REGION].all_instances())
        ]
        tell("instances.json", machines)
        buckets = list(s3_backends[ACCOUNT]["aws"].buckets.values())
        tell("objects.json", [key for bucket in buckets for key in list(bucket.keys.keys())])
        time.sleep(0.2)


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    profiles: dict[str, str] = {}
    main(sys.argv[1])
