"""The 2-D lab's network: its signature, and many networks stacked as one."""

import pytest
import torch

from ddpm_app.networks.mlp import ToyConfig, ToyMLP, ToyStack


def test_the_network_has_the_signature_of_the_unet():
    net = ToyMLP(ToyConfig(dim=3, width=16, depth=3, num_classes=4))
    x, t, label = torch.randn(5, 3), torch.tensor([0.0, 1.5, 10, 500, 999]), torch.tensor([0, 1, 2, 3, 4])
    assert net(x, t, label).shape == (5, 3)
    assert torch.allclose(net(x, t, None), net(x, t, torch.full((5,), 4)))
    assert not torch.allclose(net(x, t, label), net(x, t, None))
    shared = torch.tensor(7.0).expand(5)  # one level for the whole batch: embedded once, same numbers
    assert torch.allclose(net(x, shared, label), net(x, shared.clone(), label), atol=1e-6)
    with pytest.raises(ValueError, match="dim 1..64"):
        ToyConfig(dim=65)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_a_stack_gives_the_outputs_of_its_networks(num_classes):
    nets = [ToyMLP(ToyConfig(dim=2, width=16, depth=3, num_classes=num_classes)) for _ in range(3)]
    stack = ToyStack(nets, torch.tensor([0, 10, 30]))
    x, t = torch.randn(3 * 5, 2), torch.randint(0, 10, (15,)).float()
    label = torch.randint(0, num_classes + 1, (15,)) if num_classes else None
    for lab in (label, None):
        out = stack(x, t + torch.tensor([0, 10, 30]).repeat_interleave(5), lab)
        for i, net in enumerate(stack.unstack()):
            part = slice(5 * i, 5 * i + 5)
            want = nets[i](x[part], t[part], None if lab is None else lab[part])
            assert torch.allclose(out[part], want, atol=1e-6) and torch.allclose(net(x[part], t[part]), nets[i](x[part], t[part]))
