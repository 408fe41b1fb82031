from __future__ import annotations

from dataclasses import replace

import pytest

from fedmq.audit import AggregatorBooks, DeviceBooks, audit

A, B = "a" * 16, "b" * 16

FIRST = DeviceBooks(
    device_id="one", incarnation=A, next_sequence=6, created=5, accepted=3, refused=1, dropped=0, waiting=frozenset({5})
)
SECOND = DeviceBooks(
    device_id="two", incarnation=B, next_sequence=3, created=2, accepted=2, refused=0, dropped=0, waiting=frozenset()
)
BOOKS = AggregatorBooks(
    folded=(("one", A, 1), ("one", A, 2), ("two", B, 1), ("one", A, 4), ("two", B, 2)),
    counted_accepted=5,
    counted_folded=5,
    versions=(0, 1, 2),
)


def test_books_that_agree_have_no_faults() -> None:
    verdict = audit([FIRST, SECOND], BOOKS)

    assert verdict.holds, verdict.faults
    assert (verdict.created, verdict.accepted, verdict.refused, verdict.dropped, verdict.waiting) == (7, 5, 1, 0, 1)
    assert verdict.folded == verdict.taken_in == 5


def test_an_update_whose_receipt_is_still_under_way_is_no_fault() -> None:
    books = replace(BOOKS, folded=(*BOOKS.folded, ("one", A, 5)), counted_accepted=6, counted_folded=6)

    verdict = audit([FIRST, SECOND], books)

    assert verdict.holds, verdict.faults
    assert verdict.taken_in == verdict.accepted + 1


def test_an_update_that_was_given_up_may_have_been_taken_in() -> None:
    given_up = replace(FIRST, waiting=frozenset(), dropped=1)
    books = replace(BOOKS, folded=(*BOOKS.folded, ("one", A, 5)), counted_accepted=6, counted_folded=6)

    assert audit([given_up, SECOND], BOOKS).holds
    assert audit([given_up, SECOND], books).holds


@pytest.mark.parametrize(
    ("devices", "books", "fault"),
    [
        (
            [FIRST, SECOND],
            replace(BOOKS, folded=(*BOOKS.folded, ("one", A, 2)), counted_accepted=6, counted_folded=6),
            "one: update 2 was counted 2 times",
        ),
        (
            [FIRST, SECOND],
            replace(BOOKS, folded=BOOKS.folded[1:], counted_accepted=4, counted_folded=4),
            "one: 3 receipts said accepted, but only 2",
        ),
        (
            [replace(FIRST, accepted=2, refused=2), SECOND],
            BOOKS,
            "one: 3 updates were taken in for good, but only 2 receipts",
        ),
        ([replace(FIRST, waiting=frozenset()), SECOND], BOOKS, "one: created 5 updates, but can account for 4"),
        ([replace(FIRST, next_sequence=7), SECOND], BOOKS, "one: created 5 updates, but gave out 6 numbers"),
        (
            [FIRST, SECOND],
            replace(BOOKS, folded=(*BOOKS.folded, ("one", A, 9)), counted_accepted=6, counted_folded=6),
            "one: update 9 exists, but was never made",
        ),
        ([FIRST], BOOKS, "two: 2 updates of an outbox that no device has"),
        ([FIRST, SECOND], replace(BOOKS, counted_accepted=6), "counted 6 accepted updates, and holds 5"),
        ([FIRST, SECOND], replace(BOOKS, counted_folded=4), "counted 4 folded updates, and holds 5"),
        ([FIRST, SECOND], replace(BOOKS, versions=(0, 1, 3)), "versions are not consecutive"),
    ],
)
def test_every_kind_of_fault_is_found(devices: list[DeviceBooks], books: AggregatorBooks, fault: str) -> None:
    verdict = audit(devices, books)

    assert not verdict.holds
    assert any(fault in found for found in verdict.faults), verdict.faults


ANSWERING = replace(SECOND, next_sequence=5, reports_created=2, reports_accepted=1, reports_waiting=frozenset({4}))
ANSWERED = replace(BOOKS, reports=(("two", B, 3),))


def test_reports_take_numbers_and_count_as_no_updates() -> None:
    verdict = audit([FIRST, ANSWERING], ANSWERED)
    assert verdict.holds, verdict.faults
    assert (verdict.created, verdict.accepted, verdict.taken_in) == (7, 5, 5)
    under_way = replace(ANSWERED, reports=(*ANSWERED.reports, ("two", B, 4)))
    assert audit([FIRST, ANSWERING], under_way).holds


@pytest.mark.parametrize(
    ("device", "reports", "fault"),
    [
        (ANSWERING, (("two", B, 3), ("two", B, 3)), "two: update 3 was counted 2 times"),
        (ANSWERING, (("two", B, 2),), "two: update 2 was counted 2 times"),
        (replace(ANSWERING, reports_created=1), (("two", B, 3),), "but gave out 4 numbers"),
        (replace(ANSWERING, reports_accepted=0), (("two", B, 3),), "created 2 reports, but can account for 1"),
        (replace(ANSWERING, reports_accepted=0, reports_refused=1), (("two", B, 3),), "1 reports were taken in"),
        (ANSWERING, (("two", B, 3), ("two", B, 9)), "update 9 exists, but was never made"),
        (ANSWERING, (("two", B, 3), ("two", A, 1)), "of an outbox that no device has"),
    ],
)
def test_reports_that_do_not_add_up(device: DeviceBooks, reports: tuple[tuple[str, str, int], ...], fault: str) -> None:
    found = audit([FIRST, device], replace(BOOKS, reports=reports)).faults
    assert any(fault in each for each in found), found
