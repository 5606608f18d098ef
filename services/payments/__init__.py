"""Payments: what lessons cost, who paid, and what instructors earn.

Owns the schema payments: payments, refunds and disputes; payouts and the ledger; what Stripe tells
us (webhook events); reconciliation runs. The database keeps these:

- a booking has one payment at a time, refunds never exceed what was captured;
- a payment is paid out at most once; each movement of the ledger adds up to 0, and happens once;
- an event of Stripe is kept once.

Takes in booking's events (effects.py), tells payment.* and payout.* (docs/payments.md). Stripe is
called between two transactions, never inside one (charging.py, paying_out.py).
"""
