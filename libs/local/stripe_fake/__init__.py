"""A fake of Stripe's HTTP API for the local stack and the tests; loopback only, test keys only."""

from libs.local.stripe_fake.charges import METHODS
from libs.local.stripe_fake.errors import Refusal
from libs.local.stripe_fake.fake import StripeFake
from libs.local.stripe_fake.faults import Fault

__all__ = ["METHODS", "Fault", "Refusal", "StripeFake"]
