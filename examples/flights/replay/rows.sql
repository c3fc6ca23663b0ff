-- The rows of the sources in features.yaml, made of the data. The variable "data" names its folder.

CREATE MACRO rfc3339(t) AS strftime(timezone('UTC', t), '%Y-%m-%dT%H:%M:%SZ');

-- Every flight with the times when it left and arrived. The data has clocks: New York's for the departure, the
-- destination's for the arrival, and no date of the arrival. It is the first time after the departure that the
-- clock of the destination shows; no flight takes a day. The airports without a zone are Puerto Rico's and St. Thomas's.
CREATE TABLE flights AS
WITH departed AS (
    SELECT carrier, flight, origin, dest, tailnum, dep_delay, arr_delay, dep_time, arr_time, air_time, sched_dep_time,
        -- The day in New York, not in UTC: a flight at 20:00 on Friday is a Friday flight.
        isodow(timezone('America/New_York', time_hour)) AS day_of_week,
        time_hour + to_minutes(minute) AS scheduled,
        time_hour + to_minutes(minute + dep_delay) AS departed_at,
        coalesce(tzone, 'America/Puerto_Rico') AS zone
    FROM read_parquet(getvariable('data') || '/flights.parquet')
    LEFT JOIN read_parquet(getvariable('data') || '/airports.parquet') ON faa = dest
), clocks AS (
    SELECT *, timezone(zone, departed_at) AS clock_at_departure,
        date_trunc('day', clock_at_departure) + to_minutes(arr_time // 100 * 60 + arr_time % 100) AS same_day
    FROM departed
), arrived AS (
    SELECT *, same_day + to_days(CAST(same_day < clock_at_departure AS INTEGER)) AS clock_at_arrival,
        timezone(zone, clock_at_arrival) AS later,
        -- In the night when summer time ends, clocks show an hour twice; of the two the first is meant.
        CASE WHEN timezone(zone, later - INTERVAL 1 HOUR) = clock_at_arrival THEN later - INTERVAL 1 HOUR ELSE later END AS arrived_at
    FROM clocks
)
SELECT carrier, flight, origin, dest, tailnum, dep_delay, arr_delay, sched_dep_time, day_of_week, scheduled, departed_at, arrived_at,
    -- A model is asked about all flights of a minute at once, 45 minutes ahead; nobody knows yet which of them will be cancelled.
    scheduled - INTERVAL 45 MINUTE AS asked_at,
    row_number() OVER (PARTITION BY scheduled ORDER BY carrier, flight, origin, dest) - 1 AS asked_row,
    -- What is left of the way beside the time in the air is spent on the ground: a few minutes to a few hours.
    date_diff('minute', departed_at, arrived_at) - air_time AS ground,
    CASE
        WHEN dep_delay IS NULL THEN 'cancelled'
        WHEN arr_delay IS NULL THEN 'diverted'
        WHEN ground NOT BETWEEN 1 AND 300 THEN 'misplaced'
        ELSE 'flown'
    END AS fate
FROM arrived
ORDER BY scheduled; -- so that DuckDB finds a week without reading the year

CREATE VIEW departures AS
SELECT departed_at, carrier, flight, origin, dest, tailnum, CAST(dep_delay AS DOUBLE) AS dep_delay
FROM flights WHERE fate <> 'cancelled';

CREATE VIEW arrivals AS
SELECT arrived_at, carrier, flight, origin, dest, tailnum, CAST(arr_delay AS DOUBLE) AS arr_delay
FROM flights WHERE fate = 'flown';

-- Stations report at 51 minutes past the hour, and the data files that under the hour. To be on the safe side
-- it counts as known when the hour is over.
CREATE VIEW weather AS
SELECT time_hour + INTERVAL 51 MINUTE AS observed_at, time_hour + INTERVAL 1 HOUR AS known_at, origin,
    CAST(dewp AS FLOAT) AS dewp, CAST(humid AS FLOAT) AS humid, CAST(wind_speed AS FLOAT) AS wind_speed,
    CAST(precip AS FLOAT) AS precip, CAST(pressure AS FLOAT) AS pressure, CAST(visib AS FLOAT) AS visib
FROM read_parquet(getvariable('data') || '/weather.parquet');

-- What becomes known in the same minute is one event of each source, so that its id does not depend on where a
-- replay begins.
CREATE VIEW events AS
SELECT departed_at AS moment, 'departures' AS source, count(*) AS n, to_json(list({
    departed_at: rfc3339(departed_at), carrier: carrier, flight: flight, origin: origin, dest: dest, tailnum: tailnum, dep_delay: dep_delay
} ORDER BY carrier, flight, origin, dest)) AS rows
FROM departures GROUP BY moment
UNION ALL
SELECT arrived_at AS moment, 'arrivals', count(*), to_json(list({
    arrived_at: rfc3339(arrived_at), carrier: carrier, flight: flight, origin: origin, dest: dest, tailnum: tailnum, arr_delay: arr_delay
} ORDER BY carrier, flight, origin, dest))
FROM arrivals GROUP BY moment;

-- What a model is asked before each flight, as the inputs of one request a minute.
CREATE VIEW asks AS
SELECT asked_at AS moment, 'asks' AS source, count(*) AS n, to_json({
    carrier: list(carrier ORDER BY asked_row), origin: list(origin ORDER BY asked_row), dest: list(dest ORDER BY asked_row),
    tailnum: list(coalesce(tailnum, '') ORDER BY asked_row), day_of_week: list(day_of_week ORDER BY asked_row),
    sched_dep_time: list(sched_dep_time ORDER BY asked_row)
}) AS rows
FROM flights GROUP BY moment;

-- What came true, for POST /feedback. Flights that never arrived where they were to have no outcome.
CREATE VIEW outcomes AS
SELECT arrived_at AS moment, 'outcomes' AS source, count(*) AS n, to_json(list({
    prediction: rfc3339(asked_at), 'row': asked_row, value: arr_delay > 15, time: rfc3339(arrived_at)
} ORDER BY asked_at, asked_row)) AS rows
FROM flights WHERE fate = 'flown' GROUP BY moment;

-- All that happens, in the order of place within a minute: what is known at that moment, what is asked by it, what came true.
CREATE VIEW course AS
SELECT 1 AS place, * FROM events
UNION ALL
SELECT 1, known_at, 'weather', count(*), to_json(list({
    observed_at: rfc3339(observed_at), known_at: rfc3339(known_at), origin: origin, dewp: dewp, humid: humid, wind_speed: wind_speed,
    precip: precip, pressure: pressure, visib: visib
} ORDER BY origin)) FROM weather GROUP BY known_at
UNION ALL
SELECT 2, * FROM asks
UNION ALL
SELECT 3, * FROM outcomes;

-- The flights that taught a model, as rows of `pilotlight features training-set`.
CREATE VIEW asked AS
SELECT asked_at AS event_timestamp, carrier, origin, dest, tailnum, day_of_week, sched_dep_time FROM flights WHERE fate = 'flown';
