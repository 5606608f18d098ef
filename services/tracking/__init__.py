"""Tracking: trips of driving-school cars, and their GPS points.

Owns the tables "Trip", "TripPoint" (one partition a month), "HeldTripPoint", "DrivingEvent",
"GpsUpload", "RejectedPoint" and "RejectedPointCount".

Keeps: an acknowledged point is stored, once; a point is judged alone and never lost in silence; a
summary speaks of the points that are there; a month is dropped only after its trips keep theirs.

Emits trip.completed (topic trip), again with a higher version whenever late points change it.
Takes in booking's org.created, org.suspended and org.resumed (its list of schools) and
student.erased (the ways of the student's lessons go, their figures stay).
"""
