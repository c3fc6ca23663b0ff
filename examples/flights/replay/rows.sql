-- The rows of the sources in features.yaml, made of the data. The variable "data" names its folder.

CREATE MACRO rfc3339(t) AS strftime(timezone('UTC', t), '%Y-%m-%dT%H:%M:%SZ');

-- Every flight with the times when it left and arrived. The data has clocks: New York's for the departure, the
-- destination's for the arrival, and no date of the arrival. It is the first time after the departure that the
-- clock of the destination shows; no flight takes a day. The airports without a zone are Puerto Rico's and St. Thomas's.
CREATE TABLE flights AS
WITH departed AS (
    SELECT carrier, flight, origin, dest, tailnum, dep_delay, arr_delay, dep_time, arr_time, air_time,
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
SELECT carrier, flight, origin, dest, tailnum, dep_delay, arr_delay, scheduled, departed_at, arrived_at,
    -- What is left of the way beside the time in the air is spent on the ground: a few minutes to a few hours.
    date_diff('minute', departed_at, arrived_at) - air_time AS ground,
    CASE
        WHEN dep_delay IS NULL THEN 'cancelled'
        WHEN arr_delay IS NULL THEN 'diverted'
        WHEN ground NOT BETWEEN 1 AND 300 THEN 'misplaced'
        ELSE 'flown'
    END AS fate
FROM arrived;

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
