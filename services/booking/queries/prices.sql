-- name: lock_services
-- Those of the lesson types that the school has, locked in one order: prices are set one by one.
SELECT id FROM "Service"
 WHERE "orgId" = %(org_id)s::uuid AND id = ANY (%(service_ids)s::uuid[])
 ORDER BY id
   FOR NO KEY UPDATE;

-- name: end_open_prices
-- Ends the open prices of lesson types that began before a date, on the day before it.
UPDATE "RateCardItem" SET "validTo" = %(valid_from)s::date - 1::int
 WHERE "orgId" = %(org_id)s::uuid AND "serviceId" = ANY (%(service_ids)s::uuid[])
   AND "validTo" IS NULL AND "validFrom" < %(valid_from)s::date
RETURNING "rateCardId", "serviceId";

-- name: create_rate_card
-- Adds a rate card; the id is made here.
INSERT INTO "RateCard" ("orgId", name, "validFrom", "validTo")
VALUES (%(org_id)s::uuid, %(name)s::text, %(valid_from)s::date, %(valid_to)s::date)
RETURNING id, "createdAt";

-- name: add_rate_card_items
-- The prices of a rate card.
INSERT INTO "RateCardItem" ("orgId", "rateCardId", "serviceId", "priceCents", "validFrom",
                            "validTo")
SELECT %(org_id)s::uuid, %(rate_card_id)s::uuid, i.service_id, i.price_cents,
       %(valid_from)s::date, %(valid_to)s::date
  FROM unnest(%(service_ids)s::uuid[], %(prices)s::bigint[]) AS i (service_id, price_cents);

-- name: list_rate_cards
-- A page of rate cards, newest first, behind an id.
SELECT {columns}
  FROM "RateCard"
 WHERE "orgId" = %(org_id)s::uuid AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: list_rate_card_items
-- The prices of rate cards, by lesson type.
SELECT "rateCardId", "serviceId", "priceCents", "validTo"
  FROM "RateCardItem"
 WHERE "orgId" = %(org_id)s::uuid AND "rateCardId" = ANY (%(rate_card_ids)s::uuid[])
 ORDER BY "rateCardId", "serviceId";

-- name: list_prices
-- All prices of a lesson type, latest first; their dates never overlap.
SELECT "rateCardId", "priceCents", "validFrom", "validTo"
  FROM "RateCardItem"
 WHERE "orgId" = %(org_id)s::uuid AND "serviceId" = %(service_id)s::uuid
 ORDER BY "validFrom" DESC;
