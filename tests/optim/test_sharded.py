"""A sharded parameter is refused: selecting within each shard would be another method."""

import pytest
import torch
import torch.distributed as dist

from mofo import MoFO


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_a_sharded_parameter_is_refused_at_construction_and_at_the_step():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        sharded = torch.nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))
        with pytest.raises(NotImplementedError, match="is sharded"):
            MoFO([sharded])
        first = torch.nn.Parameter(torch.ones(4, 3))
        first.grad = torch.ones_like(first)
        optimizer = MoFO([first, torch.nn.Parameter(torch.ones(4, 3))])
        optimizer.param_groups[0]["params"][1] = sharded  # as accelerate does
        sharded.grad = sharded.detach().clone()
        with pytest.raises(NotImplementedError, match="is sharded"):
            optimizer.step()
        assert torch.equal(first, torch.ones(4, 3))
    finally:
        dist.destroy_process_group()
