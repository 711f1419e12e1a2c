"""That the cost of tokens is measured; the figures of a busy machine say little."""

from tests.bench.jwt_cost import measure


async def test_a_later_request_of_a_token_costs_less_than_its_first() -> None:
    found = await measure(tokens=20)
    first, arithmetic, _, later, _, mean = found.values()
    assert set(later) == {"HS256", "RS256", "ES256", "EdDSA"}
    assert all(value > 0 for value in arithmetic.values())
    assert all(0 < later[name] < mean[name] < first[name] for name in first)
