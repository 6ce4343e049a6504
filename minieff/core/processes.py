"""The processes of a training run: this one alone, or those that torchrun started, one per device."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def processes() -> Iterator[tuple[int, int, torch.device]]:
    """(rank, number of processes, device): of this process alone, or of those that torchrun started.

    >>> with processes() as (rank, world, device):
    ...     print(rank, world)
    0 1
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield 0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)  # random states are on the CPU
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), world, device
        dist.barrier()  # no process leaves while another still sends
    finally:
        gc.collect()  # frees DistributedDataParallel, whose threads must end before the process
        dist.destroy_process_group()
