"""Latencies between cities, computed from where they lie; nobody's measurements are in it.

Made so: the great-circle distance by the haversine formula on a sphere of the Earth's mean radius, times
`ROUTE_FACTOR`, since cables follow coasts and roads and not great circles; at the speed of light in fibre, two thirds
of that in vacuum; plus `ACCESS_MS` at each end for what is not a long cable. Coordinates are those of the city
centres, to a tenth of a degree, which is off by less than a millisecond. London and New York are 43 ms apart by it,
Tokyo and Sao Paulo 134 ms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

EARTH_KM: Final = 6371.0
LIGHT_KM_PER_MS: Final = 299.792458
FIBRE: Final = 2 / 3
ROUTE_FACTOR: Final = 1.4
ACCESS_MS: Final = 2.0

CITIES: Final[Mapping[str, tuple[float, float]]] = {
    "amsterdam": (52.4, 4.9),
    "atlanta": (33.7, -84.4),
    "auckland": (-36.8, 174.8),
    "bangalore": (13.0, 77.6),
    "bangkok": (13.8, 100.5),
    "berlin": (52.5, 13.4),
    "bogota": (4.7, -74.1),
    "buenos-aires": (-34.6, -58.4),
    "cairo": (30.0, 31.2),
    "cape-town": (-33.9, 18.4),
    "chicago": (41.9, -87.6),
    "dallas": (32.8, -96.8),
    "delhi": (28.6, 77.2),
    "dubai": (25.2, 55.3),
    "dublin": (53.3, -6.3),
    "frankfurt": (50.1, 8.7),
    "helsinki": (60.2, 24.9),
    "ho-chi-minh-city": (10.8, 106.7),
    "hong-kong": (22.3, 114.2),
    "istanbul": (41.0, 29.0),
    "jakarta": (-6.2, 106.8),
    "johannesburg": (-26.2, 28.0),
    "karachi": (24.9, 67.0),
    "lagos": (6.5, 3.4),
    "lima": (-12.0, -77.0),
    "london": (51.5, -0.1),
    "los-angeles": (34.1, -118.2),
    "madrid": (40.4, -3.7),
    "manila": (14.6, 121.0),
    "melbourne": (-37.8, 145.0),
    "mexico-city": (19.4, -99.1),
    "miami": (25.8, -80.2),
    "montreal": (45.5, -73.6),
    "moscow": (55.8, 37.6),
    "mumbai": (19.1, 72.9),
    "nairobi": (-1.3, 36.8),
    "new-york": (40.7, -74.0),
    "paris": (48.9, 2.4),
    "perth": (-32.0, 115.9),
    "san-francisco": (37.8, -122.4),
    "santiago": (-33.4, -70.7),
    "sao-paulo": (-23.6, -46.6),
    "seattle": (47.6, -122.3),
    "seoul": (37.6, 127.0),
    "singapore": (1.4, 103.8),
    "stockholm": (59.3, 18.1),
    "sydney": (-33.9, 151.2),
    "taipei": (25.0, 121.6),
    "tokyo": (35.7, 139.7),
    "toronto": (43.7, -79.4),
    "warsaw": (52.2, 21.0),
    "zurich": (47.4, 8.5),
}
"""Latitude (north) and longitude (east) in degrees."""


def distance_km(one: str, other: str) -> float:
    """The great-circle distance of two cities. Raises KeyError for one that is not in `CITIES`."""
    latitude, longitude = (math.radians(angle) for angle in CITIES[one])
    other_latitude, other_longitude = (math.radians(angle) for angle in CITIES[other])
    squared = (
        math.sin((other_latitude - latitude) / 2) ** 2
        + math.cos(latitude) * math.cos(other_latitude) * math.sin((other_longitude - longitude) / 2) ** 2
    )
    return 2 * EARTH_KM * math.asin(math.sqrt(min(1.0, squared)))


def latency_ms(one: str, other: str) -> float:
    """One-way latency of two cities in milliseconds, as computed above. Raises KeyError."""
    return 2 * ACCESS_MS + distance_km(one, other) * ROUTE_FACTOR / (LIGHT_KM_PER_MS * FIBRE)
