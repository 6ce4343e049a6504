"""k-means against scikit-learn and against hostile inputs."""

from statistics import median

import pytest
import torch

from minieff.product_quant.kmeans import kmeans, means, nearest


def distortion(points: torch.Tensor, found: tuple[torch.Tensor, torch.Tensor]) -> float:
    codebook, codes = found
    return float((points.double() - codebook[codes].double()).square().sum())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (40, 5), (333, 8)], ids=str)
@pytest.mark.parametrize("codewords", [1, 2, 16, 100])
def test_each_point_has_the_nearest_codeword(shape, codewords):
    points = torch.randn(shape)
    codebook, codes = kmeans(points, codewords, generator=seeded())
    assert codebook.shape == (codewords, shape[1]) and codes.shape == (shape[0],)
    far = torch.cdist(points, codebook)
    torch.testing.assert_close(far.gather(1, codes[:, None])[:, 0], far.amin(1), rtol=1e-3, atol=1e-3)


def test_no_more_distinct_points_than_codewords_lose_nothing():
    few = torch.randn(9, 4)
    points = few[torch.randint(9, (200,))]
    for codewords in (9, 10, 50):
        codebook, codes = kmeans(points, codewords, generator=seeded())
        assert len(codebook) == codewords
        torch.testing.assert_close(codebook[codes], points, rtol=1e-6, atol=1e-7)
    assert distortion(points, kmeans(points, 8, generator=seeded())) > 0


def test_no_step_raises_the_distortion():
    points = torch.randn(500, 6) ** 3
    codebook, last = points[:30].clone(), float("inf")
    for _ in range(15):
        codes = nearest(points, codebook)
        codebook = means(points, codes, codebook)
        now = distortion(points, (codebook, codes))
        assert now <= last * (1 + 1e-5)
        last = now


def test_a_codeword_without_points_moves_to_a_far_point():
    points = torch.cat([torch.zeros(9, 2), torch.full((1, 2), 5.0)])
    codebook = torch.tensor([[0.1, 0.1], [-50.0, -50.0]])
    codes = nearest(points, codebook)
    assert codes.unique().tolist() == [0]
    assert means(points, codes, codebook)[1].tolist() == [5.0, 5.0]


def test_same_seed_same_codes():
    points = torch.randn(300, 4)
    one, two, other = (kmeans(points, 20, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and not torch.equal(one[0], other[0])


def test_as_good_as_scikit_learn():
    """20 sets of points: same K, k-means++ and iterations; the medians of five seeds are compared."""
    from sklearn import cluster

    ratios = []
    for case in range(20):
        draw = seeded(case)
        N, d, K = 200 + 100 * case, (2, 4, 8, 5)[case % 4], (4, 16, 32, 64)[case // 5]
        points = torch.randn(N, d, generator=draw) ** (1 + case % 3)
        ours = [distortion(points, kmeans(points, K, iterations=20, generator=seeded(s))) for s in range(5)]
        theirs = [
            cluster.KMeans(K, n_init=1, max_iter=20, tol=0, random_state=s).fit(points.numpy()).inertia_
            for s in range(5)
        ]
        ratios.append(median(ours) / median(theirs))
    assert median(ratios) < 1.01 and max(ratios) < 1.1


def hostile(case: int) -> tuple[torch.Tensor, int]:
    """Sizes, repetitions, magnitudes, bad numbers."""
    draw = seeded(case)
    N, d, K = (int(torch.randint(1, high, (), generator=draw)) for high in (60, 9, 70))
    points = torch.randn(N, d, generator=draw)
    kind = case % 9
    if kind == 1:
        points = points.round()
    elif kind == 2:
        points[:] = points[0]
    elif kind == 3:
        points *= 10.0 ** float(torch.randint(-44, 38, (), generator=draw))
    elif kind == 4:
        points *= 10.0 ** torch.randint(-30, 30, (N, 1), generator=draw).float()
    elif kind == 5:
        points[N // 2, 0] = (float("nan"), float("inf"), -float("inf"))[case % 3]
    elif kind == 6:
        points = points[:0] if case % 2 else points[:, :0]
    elif kind == 7:
        points[: N // 2] = 0
    elif kind == 8:
        K = (0, -1, 1, N, N + 1)[case // 9 % 5]
    return points, K


def test_hostile_inputs_give_a_finite_result_or_a_reason():
    for case in range(200):
        points, codewords = hostile(case)
        if points.numel() == 0 or codewords < 1 or not points.isfinite().all():
            with pytest.raises(ValueError, match="codewords for points|NaN, infinity"):
                kmeans(points, codewords, generator=seeded())
            continue
        codebook, codes = kmeans(points, codewords, generator=seeded())
        assert codebook.shape == (codewords, points.shape[1]) and codebook.isfinite().all()
        assert codes.shape == (len(points),) and 0 <= codes.min() and codes.max() < codewords
        if len(points.unique(dim=0)) <= codewords:
            torch.testing.assert_close(codebook[codes], points, rtol=1e-5, atol=0)
