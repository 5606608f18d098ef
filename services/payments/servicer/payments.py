"""PaymentService: one class for each topic, with the methods that belong together."""

from __future__ import annotations

from driveflow.payments.v1 import payments_pb2_grpc
from services.payments.paying_out import PayingOut
from services.payments.servicer.charges import Charges
from services.payments.servicer.desk import Desk
from services.payments.servicer.ledger import Ledger
from services.payments.servicer.payouts import Payouts
from services.payments.servicer.revenue import Revenue


class PaymentServicer(Charges, Payouts, Ledger, Revenue, payments_pb2_grpc.PaymentServiceServicer):
    """Payments, refunds, disputes, payouts, the ledger, revenue."""

    def __init__(self, desk: Desk, paying_out: PayingOut) -> None:
        Charges.__init__(self, desk)
        Payouts.__init__(self, desk, paying_out)
        for topic in (Ledger, Revenue):
            topic.__init__(self, desk)
