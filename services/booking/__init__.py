"""Booking: a school's directory, calendar and lessons.

Owns the tables "Org", "Instructor", "Student", "Guardian", "StudentGuardian", "Service",
"RateCard", "RateCardItem", "Vehicle", "InstructorAvailability", "AvailabilityException", "Booking",
"BookingTransition", "Lesson", "LessonTrip", "WaitlistEntry", "InstructorEarning", and the
materialized view instructor_stats.

Keeps: an instructor, a vehicle and a student are in one place at a time; what search offers,
placing accepts, unless someone was faster; a booking is made at the price that was quoted; each
step of its life is in its history, the audit log and the events.

Emits booking.*, lesson.*, org.*, student.erased and waitlist.offered; takes in tracking's
trip.completed, and payments' payment.succeeded, payout.paid and payout.reversed.
"""
