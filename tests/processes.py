"""A function run in two processes that know of each other."""

import contextlib
import json
import multiprocessing
import os
import socket
from pathlib import Path

import torch


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def as_rank(rank, port, target, folder):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with open(Path(folder, f"err{rank}"), "w", buffering=1) as err, contextlib.redirect_stderr(err):
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        try:
            result = target(rank)
        except BaseException:
            import traceback

            traceback.print_exc()
            err.flush()
            os._exit(1)  # the other process waits for this one otherwise
        Path(folder, f"rank{rank}.json").write_text(json.dumps(result))
        torch.distributed.barrier()  # the other one may still be reading what this one sent last
        torch.distributed.destroy_process_group()


def in_two_processes(target, folder, seconds=120):
    """What ``target(rank)`` returns in each of two processes joined by gloo."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["torch.distributed.fsdp", "lrscope"])
    port = free_port()
    ranks = [processes.Process(target=as_rank, args=(rank, port, target, str(folder))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(seconds)
    errors = "".join(Path(folder, f"err{rank}").read_text() for rank in range(2))
    assert [process.exitcode for process in ranks] == [0, 0], errors
    return [json.loads(Path(folder, f"rank{rank}.json").read_text()) for rank in range(2)]
