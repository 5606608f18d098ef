"""Tracking: trips of driving-school cars, and their GPS points.

Owns the tables "Trip", "TripPoint" (one partition a month), "HeldTripPoint", "DrivingEvent",
"GpsUpload", "RejectedPoint" and "RejectedPointCount".

Keeps: an acknowledged point is stored, once; a point is judged alone and never lost in silence; a
summary speaks of the points that are there; a month is dropped only after its trips keep theirs.

Emits trip.completed (topic trip), again with a higher version whenever late points change it.
"""
