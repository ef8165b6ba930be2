"""Where the sample of places was taken, and how each region of its drawn world looks. Coordinates are real.

A line without indentation is a region's: its name, a colon, and the fields of Region in their order. Those below it are
its places: name, latitude, longitude, biome, terrain, `sea` where it can be seen, how much is photographed there, and
where more places are: towards which point of the compass (`-` for all of them) and how far in km, nearly all on land.
"""

from typing import NamedTuple


class Region(NamedTuple):
    """What all places of a region have in common. Colours are names of street.PAINTS; `a/b` is a pair of them."""

    name: str
    script: str  # what is written on signs and number plates
    sign: str  # its ground / its writing
    plate: str  # a number plate's ground
    line: str  # the colour of the line in the middle of the road
    dashes: str  # whether it is solid, dashed or double; none as its colour where there is no line
    drives: str  # on which side
    roof: str  # its shape
    tiles: str  # its colour
    walls: str
    trim: str  # doors and shutters
    posts: str  # the stripes of the posts beside the road
    box: str  # letter boxes


class Spot(NamedTuple):
    """A place that many know."""

    name: str
    region: Region
    latitude: float
    longitude: float
    biome: str
    terrain: str
    sea: bool
    fame: float  # how much is photographed there
    bearing: float | None  # degrees, in the middle of where more places are; None for all around
    reach: float  # km


_COMPASS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")

_TABLE = """
Alaska and the Yukon: latin navy/yellow yellow yellow double right steep moss timber/brown red orange/black blue
  Anchorage             61.22 -149.89  boreal        peaks  sea  2  N  150
  Fairbanks             64.84 -147.72  boreal        hills  -    1  -  150
  Whitehorse            60.72 -135.06  boreal        peaks  -    1  -  150
Western Canada: latin green/white white yellow solid right gable copper timber/grey white red/white red
  Vancouver             49.26 -123.10  oceanic       peaks  sea  4  E  100
  Banff                 51.18 -115.57  boreal        peaks  -    3  -  150
  Edmonton              53.55 -113.49  continental   plain  -    1  -  150
  Winnipeg              49.90  -97.14  continental   plain  -    1  -  150
Western US: latin green/white white yellow dashed right flat sand cream/pink teal white/black blue
  San_Francisco         37.76 -122.44  mediterranean hills  sea  7  NE 150
  Los_Angeles           34.05 -118.24  mediterranean hills  sea  6  N  150
  Seattle               47.61 -122.33  oceanic       volcano sea  3  SE 150
  Grand_Canyon          36.06 -112.12  desert        mesas  -    4  -  150
  Salt_Lake_City        40.76 -111.89  steppe        peaks  -    2  -  150
  Denver                39.74 -104.99  steppe        peaks  -    2  -  150
Southern US: latin blue/white lime yellow dashed right gable zinc white/sky green yellow/black blue
  Dallas                32.78  -96.80  subtropical   plain  -    2  -  150
  New_Orleans           29.95  -90.07  subtropical   plain  -    2  NW 120
  Atlanta               33.75  -84.39  subtropical   plain  -    2  -  150
  Miami                 25.77  -80.20  tropical      plain  sea  4  NW  90
North-eastern US: latin green/white yellow yellow double right flat charcoal brick/brown white yellow/white navy
  New_York              40.74  -73.95  continental   plain  sea  8  NW 150
  Boston                42.36  -71.06  continental   plain  sea  3  NW 150
  Washington            38.91  -77.04  continental   plain  -    4  N  150
  Chicago               41.88  -87.65  continental   plain  -    4  W  150
  Minneapolis           44.98  -93.27  continental   plain  -    1  -  150
Eastern Canada: latin blue/white sky yellow solid right mansard copper grey/slate red red/black red
  Toronto               43.67  -79.39  continental   plain  -    3  N  120
  Montreal              45.50  -73.57  continental   hills  -    3  -  150
  Halifax               44.65  -63.58  continental   hills  sea  1  N  100
  Gros_Morne            49.60  -57.80  boreal        hills  sea  1  SE 150
Mexico: latin green/white green yellow dashed right flat magenta magenta/yellow blue orange/white green
  Mexico_City           19.43  -99.13  highland      volcano -    5  -  150
  Guadalajara           20.67 -103.35  steppe        hills  -    2  -  150
  La_Paz_Baja           24.14 -110.31  desert        mesas  sea  1  S   40
  Cancun                20.95  -87.00  tropical      plain  sea  3  W   60
  Monterrey             25.67 -100.31  desert        peaks  -    1  -  150
Central America, Caribbean: latin white/blue orange yellow solid right hip red turquoise/pink white blue/white yellow
  Havana                23.11  -82.37  tropical      plain  sea  3  S   40
  Santo_Domingo         18.50  -69.93  tropical      hills  sea  2  N   60
  San_Juan              18.38  -66.06  tropical      hills  sea  1  S   20
  Antigua_Guatemala     14.56  -90.73  tropical      volcano -    2  N  150
  San_Jose               9.93  -84.08  tropical      volcano -    2  N   60
Northern Andes: latin brown/white yellow yellow double right gable terracotta adobe/white blue blue/yellow magenta
  Cartagena             10.38  -75.48  tropical      plain  sea  2  SE 150
  Bogota                 4.71  -74.07  highland      peaks  -    2  -  150
  Quito                 -0.18  -78.47  highland      volcano -    2  -  150
  Lima                 -12.05  -76.99  desert        hills  sea  3  NE 150
  Cusco                -13.52  -71.97  highland      peaks  -    4  -  150
  La_Paz               -16.50  -68.13  highland      peaks  -    2  -  150
Brazil: latin green/yellow grey yellow dashed right hip orange lime/white orange green/yellow yellow
  Rio_de_Janeiro       -22.90  -43.25  tropical      karst  sea  5  N  150
  Sao_Paulo            -23.55  -46.63  subtropical   hills  -    3  N  150
  Salvador             -12.93  -38.44  tropical      plain  sea  2  NW 150
  Brasilia             -15.79  -47.88  savanna       plain  -    1  -  150
  Manaus                -3.10  -60.02  tropical      plain  -    1  -  150
  Porto_Alegre         -30.03  -51.20  subtropical   hills  -    1  N  150
Southern Cone: latin navy/white black white dashed right gable sky yellow/zinc navy sky/white sky
  Buenos_Aires         -34.62  -58.45  subtropical   plain  sea  4  SW 150
  Santiago             -33.45  -70.65  mediterranean peaks  -    3  NE 150
  San_Pedro_de_Atacama -22.91  -68.20  desert        volcano -    2  -  150
  Bariloche            -41.13  -71.31  oceanic       peaks  -    2  -  150
  El_Chalten           -49.33  -72.89  steppe        peaks  -    2  -  150
British Isles: latin green/yellow yellow white dashed left gable slate brick/ochre white black/white red
  London                51.51   -0.13  oceanic       plain  -   7  NW 150
  Edinburgh             55.93   -3.20  oceanic       hills  sea  4  NW 150
  Manchester            53.48   -2.24  oceanic       hills  -    2  SE 150
  Dublin                53.34   -6.28  oceanic       hills  sea  3  W  150
Iceland and Greenland: latin yellow/black sky white solid right steep red white/zinc navy yellow/black orange
  Reykjavik             64.13  -21.90  tundra        volcano sea  4  NE 100
  Akureyri              65.68  -18.10  tundra        peaks  sea  1  SE 150
  Kangerlussuaq         67.01  -50.70  tundra        peaks  -    1  NE 150
France and the Low Countries: latin blue/white white white dashed right mansard slate cream/sand grey red/white yellow
  Paris                 48.86    2.35  oceanic       plain  -   7  -  150
  Bordeaux              44.84   -0.58  oceanic       plain  -    2  NE 150
  Nice                  43.71    7.26  mediterranean hills  sea  3  NW 100
  Amsterdam             52.37    4.90  oceanic       plain  sea  4  E  150
Iberia: latin white/blue white white solid right hip terracotta white/ochre green white/green yellow
  Lisbon                38.73   -9.13  mediterranean hills  sea  4  E  150
  Madrid                40.42   -3.70  mediterranean plain  -    4  -  150
  Barcelona             41.40    2.17  mediterranean hills  sea  4  NW 150
  Seville               37.39   -5.99  mediterranean plain  -    2  N  150
  Bilbao                43.26   -2.93  oceanic       hills  sea  1  S  150
Italy: latin blue/yellow white white solid right hip adobe orange/pink green red/black red
  Rome                  41.90   12.48  mediterranean hills  sea  5  NE 150
  Venice                45.46   12.28  continental   plain  sea  4  NW 100
  Florence              43.77   11.25  mediterranean hills  -    3  N  100
  Naples                40.87   14.28  mediterranean volcano sea  2  NE 150
  Palermo               38.09   13.36  mediterranean hills  sea  2  S   60
Germany and the Alps: latin yellow/black white white dashed right steep brick white/timber brown white/black yellow
  Berlin                52.52   13.40  continental   plain  -    4  -  150
  Hamburg               53.55    9.99  oceanic       plain  -    2  SE 150
  Munich                48.14   11.58  continental   hills  -    3  -  150
  Zurich                47.37    8.54  continental   peaks  -    3  NE  80
  Vienna                48.21   16.37  continental   hills  -    3  -  150
Scandinavia: latin blue/white sky white dashed right gable charcoal red/ochre white yellow/blue blue
  Copenhagen            55.68   12.45  oceanic       plain  sea  3  SW  30
  Oslo                  59.91   10.75  boreal        hills  -    2  N  150
  Bergen                60.38    5.40  oceanic       peaks  sea  2  E   60
  Stockholm             59.33   18.03  boreal        plain  sea  3  NW 100
  Tromso                69.65   19.00  tundra        peaks  sea  2  SE  60
  Helsinki              60.20   24.94  boreal        plain  sea  2  N  120
East Central Europe: latin green/white sky white dashed right mansard red yellow/lime white blue/white orange
  Warsaw                52.23   21.01  continental   plain  -    2  -  150
  Prague                50.08   14.43  continental   hills  -    4  -  150
  Budapest              47.50   19.05  continental   hills  -    3  -  150
  Brasov                45.65   25.60  continental   peaks  -    1  -  150
  Vilnius               54.69   25.28  continental   plain  -    1  -  150
Greece and the Balkans: greek blue/yellow white white double right flat white white blue blue/white yellow
  Athens                37.99   23.74  mediterranean hills  sea  4  NW  40
  Thessaloniki          40.64   22.95  mediterranean hills  sea  1  N  150
  Heraklion             35.32   25.13  mediterranean hills  sea  2  S   40
  Dubrovnik             42.66   18.10  mediterranean hills  sea  2  NE  60
  Sofia                 42.70   23.32  continental   peaks  -    1  -  150
Russia and Ukraine: cyrillic blue/white white white solid right mansard green yellow/sky white black/white blue
  Moscow                55.75   37.62  continental   plain  -    5  -  150
  Saint_Petersburg      59.93   30.35  boreal        plain  -    4  S  120
  Kyiv                  50.45   30.52  continental   plain  -    2  -  150
  Kazan                 55.80   49.11  continental   plain  -    1  -  150
  Murmansk              68.96   33.08  tundra        hills  -    1  S  150
Siberia: cyrillic green/white white white dashed right steep blue timber/charcoal turquoise red/white green
  Yekaterinburg         56.84   60.61  boreal        plain  -    1  -  150
  Novosibirsk           55.01   82.93  boreal        plain  -    1  -  150
  Irkutsk               52.29  104.28  boreal        hills  -    2  NW 150
  Yakutsk               62.03  129.68  boreal        plain  -    1  -  150
  Vladivostok           43.13  131.92  continental   hills  sea  1  N  150
  Petropavlovsk         53.06  158.62  boreal        volcano sea  1  W  150
Turkey and the Caucasus: latin turquoise/white white white double right dome grey pink/brick turquoise red/yellow yellow
  Istanbul              41.08   28.80  mediterranean hills  sea  5  NW  60
  Cappadocia            38.64   34.83  steppe        karst  -    2  -  150
  Antalya               36.91   30.70  mediterranean peaks  sea  2  N  150
  Tbilisi               41.72   44.79  continental   peaks  -    2  -  150
The Maghreb: arabic red/white black white dashed right flat adobe adobe/pink green red/green green
  Marrakesh             31.63   -7.99  desert        peaks  -    3  -  150
  Fes                   34.03   -5.00  mediterranean hills  -    1  -  150
  Algiers               36.73    3.07  mediterranean hills  sea  1  S  150
  Tunis                 36.80   10.17  mediterranean plain  sea  1  SW 150
  Djanet                24.55    9.48  desert        mesas  -    1  -  150
Egypt and the Levant: arabic blue/white orange white dashed right dome gold sand/cream brown black/yellow red
  Cairo                 30.04   31.24  desert        plain  -    4  S  150
  Luxor                 25.69   32.64  desert        mesas  -    2  -  150
  Jerusalem             31.78   35.22  mediterranean hills  -    4  E  150
  Petra                 30.33   35.44  desert        mesas  -    2  NE 150
Arabia and Iran: arabic green/white yellow yellow solid right dome turquoise cream/white gold white/black turquoise
  Dubai                 25.15   55.27  desert        plain  sea  4  SE 100
  Riyadh                24.71   46.68  desert        plain  -    1  -  150
  Muscat                23.58   58.38  desert        hills  sea  1  SW 150
  Sanaa                 15.35   44.21  highland      mesas  -    1  -  150
  Tehran                35.70   51.40  steppe        peaks  -    2  S  150
  Isfahan               32.65   51.67  desert        hills  -    1  -  150
West Africa: latin white/red blue none none right hip rust ochre/turquoise red red/yellow orange
  Dakar                 14.72  -17.40  savanna       plain  sea  1  E   60
  Bamako                12.64   -8.00  savanna       mesas  -    1  -  150
  Accra                  5.60   -0.19  tropical      plain  sea  2  N  150
  Lagos                  6.50    3.37  tropical      plain  sea  1  N  150
  Agadez                16.97    7.99  desert        mesas  -    1  -  150
Central Africa: latin white/green sky none none right cone thatch brick/lime blue white/green blue
  Douala                 4.05    9.70  tropical      volcano -    1  N  150
  Kinshasa              -4.33   15.31  tropical      plain  -    1  -  150
  Luanda                -8.84   13.25  savanna       hills  sea  1  E  150
  Lubumbashi           -11.66   27.48  savanna       plain  -    1  -  150
East Africa and Ethiopia: ethiopic green/yellow yellow white dashed left cone zinc green/sky yellow green/white red
  Nairobi               -1.29   36.82  savanna       hills  -    3  -  150
  Kilimanjaro           -3.35   37.34  savanna       volcano -    3  -  150
  Kampala                0.32   32.58  tropical      hills  -    1  NW 120
  Addis_Ababa            9.03   38.75  highland      mesas  -    2  -  150
  Khartoum              15.50   32.56  desert        plain  -    1  -  150
Southern Africa: latin blue/white lime white solid left hip charcoal pink/cream black yellow/black maroon
  Cape_Town            -33.93   18.46  mediterranean mesas  sea  5  NE 150
  Johannesburg         -26.20   28.05  savanna       plain  -    2  -  150
  Windhoek             -22.56   17.08  desert        hills  -    2  -  150
  Victoria_Falls       -17.93   25.83  savanna       plain  -    2  -  150
  Durban               -29.86   30.98  subtropical   hills  sea  1  NW 150
Madagascar: latin yellow/red black none none right steep thatch maroon/brick cream red/white lime
  Antananarivo         -18.88   47.51  highland      hills  -    2  -  150
  Toliara              -23.35   43.70  savanna       plain  sea  1  NE 150
Central Asia: cyrillic turquoise/yellow white white dashed right dome blue grey/sand turquoise white/blue sky
  Almaty                43.24   76.89  steppe        peaks  -    1  -  150
  Samarkand             39.65   66.96  steppe        hills  -    2  -  150
  Astana                51.17   71.43  steppe        plain  -    1  -  150
  Kabul                 34.53   69.17  steppe        peaks  -    1  -  150
Northern India and Nepal: devanagari green/white yellow white dashed left flat pink pink/orange maroon black/yellow red
  Delhi                 28.61   77.21  subtropical   plain  -    4  -  150
  Jaipur                26.91   75.79  desert        hills  -    2  -  150
  Mumbai                19.08   72.88  savanna       hills  sea  3  E  150
  Kolkata               22.57   88.36  tropical      plain  -    2  N  150
  Kathmandu             27.71   85.32  highland      peaks  -    3  -  150
  Lahore                31.55   74.34  steppe        plain  -    1  -  150
Southern India and Sri Lanka: tamil yellow/black yellow white solid left gable adobe sky/yellow magenta black/white red
  Bangalore             12.97   77.59  savanna       plain  -    2  -  150
  Kochi                  9.97   76.28  tropical      plain  sea  2  NE 150
  Chennai               13.08   80.25  savanna       plain  sea  1  W  150
  Kandy                  7.29   80.64  tropical      hills  -    2  N   70
Mainland South-East Asia: thai blue/white red yellow dashed left swept red white/gold gold red/white magenta
  Bangkok               13.75  100.52  tropical      plain  sea  5  N  150
  Chiang_Mai            18.79   98.98  tropical      hills  -    2  -  150
  Krabi                  8.15   98.92  tropical      karst  sea  2  N   60
  Angkor                13.41  103.87  tropical      plain  -    3  N  100
  Hanoi                 21.03  105.85  tropical      karst  -    3  N  150
  Saigon                10.78  106.70  tropical      plain  -    2  N  150
  Mandalay              21.98   96.08  savanna       hills  -    1  -  150
The Malay Archipelago: latin green/white black white double left swept terracotta timber/lime red black/red orange
  Singapore              1.36  103.82  tropical      plain  sea  5  NW  60
  Kuala_Lumpur           3.14  101.69  tropical      hills  -    3  NE 150
  Jakarta               -6.25  106.82  tropical      volcano sea  1  SW 100
  Bali                  -8.45  115.20  tropical      volcano sea  4  N   20
  Kuching                1.50  110.36  tropical      hills  sea  1  SE 150
Philippines and New Guinea: latin white/green green yellow dashed right gable rust sky/timber yellow blue/yellow navy
  Manila                14.62  121.03  tropical      volcano sea  2  N   60
  Davao                  7.10  125.55  tropical      hills  sea  1  NW 150
  Mount_Hagen           -5.86  144.23  highland      peaks  -    1  -  150
Eastern China: han blue/white blue yellow solid right swept charcoal grey/white red red/white green
  Beijing               39.91  116.40  continental   hills  -    5  -  150
  Shanghai              31.23  121.45  subtropical   plain  -    4  W  150
  Hong_Kong             22.40  114.15  subtropical   hills  sea  5  N  150
  Guilin                25.28  110.29  subtropical   karst  -    2  -  150
  Xian                  34.27  108.95  continental   hills  -    2  -  150
  Chengdu               30.66  104.07  subtropical   plain  -    2  -  150
  Harbin                45.75  126.64  continental   plain  -    1  -  150
Tibet, Xinjiang and Mongolia: han brown/white green white solid right flat maroon white/maroon gold blue/white yellow
  Lhasa                 29.65   91.12  highland      peaks  -    2  -  150
  Urumqi                43.83   87.60  desert        peaks  -    1  -  150
  Dunhuang              40.14   94.66  desert        mesas  -    1  -  150
  Ulaanbaatar           47.91  106.91  steppe        hills  -    1  -  150
Taiwan: han green/white white yellow double right hip green concrete/teal orange yellow/black green
  Taipei                25.03  121.53  subtropical   hills  sea  3  S   40
  Kaohsiung             22.65  120.35  tropical      plain  sea  1  NE  60
Korea: hangul green/white green yellow double right swept blue concrete/orange teal orange/white red
  Seoul                 37.56  126.98  continental   hills  -    4  N  150
  Busan                 35.18  129.05  subtropical   hills  sea  2  NW 150
Japan: kana blue/white lime white solid left hip navy cream/timber charcoal yellow/black red
  Tokyo                 35.69  139.70  subtropical   plain  -    7  NW 150
  Kyoto                 35.01  135.75  subtropical   hills  -    5  E  100
  Sapporo               43.06  141.35  continental   volcano sea  2  SW  60
  Fukuoka               33.57  130.42  subtropical   hills  sea  1  S  100
Eastern Australia: latin green/white gold white dashed left hip rust cream/brick green red/white red
  Sydney               -33.87  151.15  subtropical   hills  sea  6  W  150
  Melbourne            -37.80  144.97  oceanic       plain  sea  4  N  150
  Brisbane             -27.47  152.95  subtropical   hills  sea  2  SW 150
  Cairns               -16.95  145.70  tropical      hills  sea  2  SW 150
  Hobart               -42.85  147.30  oceanic       hills  sea  1  NW 100
Western and central Australia: latin brown/white orange white double left gable zinc ochre/zinc maroon white/black lime
  Perth                -31.95  115.90  mediterranean plain  sea  2  NE 150
  Uluru                -25.34  131.03  desert        mesas  -    2  -  150
  Darwin               -12.50  130.95  savanna       plain  sea  1  SE 150
  Adelaide             -34.93  138.65  mediterranean hills  sea  1  NE 150
New Zealand: latin green/yellow black white dashed left gable green white/cream red black/white violet
  Auckland             -36.88  174.80  oceanic       volcano sea  3  N   20
  Wellington           -41.25  174.85  oceanic       hills  sea  2  NE  20
  Queenstown           -45.03  168.66  oceanic       peaks  -    3  E  150
Hawaii: latin brown/yellow pink yellow solid right cone moss turquoise/timber pink pink/white pink
  Kona                  19.65 -155.80  tropical      volcano sea  2  E   40
"""


def _read(table: str) -> tuple[Spot, ...]:
    spots = []
    for line in table.strip().splitlines():
        if not line.startswith(" "):
            name, _, fields = line.partition(":")
            region = Region(name, *fields.split())
            continue
        name, latitude, longitude, biome, terrain, sea, fame, towards, reach = line.split()
        bearing = None if towards == "-" else 45.0 * _COMPASS.index(towards)
        at = float(latitude), float(longitude)
        spots.append(
            Spot(name.replace("_", " "), region, *at, biome, terrain, sea == "sea", float(fame), bearing, float(reach))
        )
    return tuple(spots)


SPOTS = _read(_TABLE)
