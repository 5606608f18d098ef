"""No RPC is left out of what is tried on two schools, and none takes the school as an argument."""

from __future__ import annotations

from google.protobuf.descriptor import MethodDescriptor

from libs import access
from tests import walking
from tests.tenancy import recipes_booking, recipes_payments, recipes_tracking
from tests.tenancy.schools import Recipes

TRIED: tuple[tuple[tuple[str, ...], Recipes], ...] = (
    (recipes_tracking.SERVICES, recipes_tracking.all_recipes()),
    (recipes_booking.SERVICES, recipes_booking.all_recipes()),
    (recipes_payments.SERVICES, recipes_payments.all_recipes()),
    # All of it is the platform's: a school's token gets nowhere (tests/libs/test_access.py).
    (("driveflow.monitor.v1.MonitorService",), {}),
)


def missing(services: tuple[str, ...], recipes: Recipes) -> list[str]:
    """The RPCs of schools that nothing is asked of."""
    return [
        method.full_name
        for method in walking.methods(*services)
        if not access.rule(method).platform and not recipes.get(method.name)
    ]


def test_every_service_is_tried() -> None:
    tried = {service for services, _ in TRIED for service in services}
    assert {method.containing_service.full_name for method in walking.methods()} == tried


def test_every_rpc_of_schools_has_a_recipe() -> None:
    assert [missing(services, recipes) for services, recipes in TRIED] == [[]] * len(TRIED)


def test_no_request_has_a_field_for_the_school() -> None:
    def fields(method: MethodDescriptor) -> list[str]:
        return [field.name for field in method.input_type.fields if "org" in field.name.split("_")]

    assert [method.full_name for method in walking.methods() if fields(method)] == []
