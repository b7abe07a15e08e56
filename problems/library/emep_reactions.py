"""Species, reactions and rates of EMEP, in molecules, cm, s and K."""

from __future__ import annotations

_SPECIES = """
NO NO2 SO2 CO CH4 C2H6 NC4H10 C2H4 C3H6 OXYL HCHO CH3CHO MEK O3 HO2 HNO3 H2O2 H2 CH3O2 C2H5OH SA
CH3O2H C2H5O2 CH3COO PAN SECC4H MEKO2 R2OOH ETRO2 MGLYOX PRRO2 GLYOX OXYO2 MAL MALO2 OP OH OD NO3
N2O5 ISOPRE NITRAT ISRO2 MVK MVKO2 CH3OH RCO3H OXYO2H BURO2H ETRO2H PRRO2H MEKO2H MALO2H MACR ISNI
ISRO2H MARO2 MAPAN CH2CCH3 ISONO3 ISNIR MVKO2H CH2CHR ISNO3H ISNIRH MARO2H
"""
SPECIES = tuple(_SPECIES.split())
"""OP is atomic oxygen, OD its excited state, SA sulphuric acid, R an alkyl group."""

M = 2.55e19
"""Molecules of air in a cm3; 5.2e18 of them are oxygen."""

WET = 3
"""The last rates depend on water: k8 is one with it, k36 and k36M grow with it."""

RATES = {
    "k1": (5.7e-34 * M * 5.2e18, -2.8, 0.0),
    "k5": (9.6e-32 * M, -1.6, 0.0),
    "k7": (2.0e-11 * M, 0.0, 100.0),
    "k11": (1.8e-12, 0.0, -1370.0),
    "k12": (1.2e-13, 0.0, -2450.0),
    "k13": (1.9e-12, 0.0, -1000.0),
    "k14": (1.4e-14, 0.0, -600.0),
    "k15": (1.8e-11, 0.0, 110.0),
    "k17": (3.7e-12, 0.0, 240.0),
    "k19": (7.2e-14, 0.0, -1414.0),
    "k20": (1.4e-12, 0.0, 0.0),
    "k21": (1.4e-11, 0.0, 0.0),
    "k26": (4.1e-16, 0.0, 0.0),
    "k29": (710000000000000.0, 0.0, -11080.0),
    "k30": (4.8e-11, 0.0, 250.0),
    "k31": (2.9e-12, 0.0, -160.0),
    "k33": (7.7e-12, 0.0, -2100.0),
    "k35": (1e-14, 0.0, 785.0),
    "k39": (1.35e-12, 0.0, 0.0),
    "k40": (4e-17, 0.0, 0.0),
    "k43": (0.0001, 0.0, 0.0),
    "k59": (3.9e-12, 0.0, -1885.0),
    "k60": (4.2e-12, 0.0, 180.0),
    "k61": (5.5e-14, 0.0, 365.0),
    "k62": (5.5e-14, 0.0, 365.0),
    "k63": (3.3e-12, 0.0, -380.0),
    "k64": (3.2e-12, 0.0, 0.0),
    "k65": (3.8e-13, 0.0, 780.0),
    "k66": (9.6e-12, 0.0, 0.0),
    "k67": (1e-12, 0.0, 190.0),
    "k68": (1.9e-12, 0.0, 190.0),
    "k69": (5.8e-16, 0.0, 0.0),
    "k70": (2.4e-13, 0.0, 0.0),
    "k71": (7.8e-12, 0.0, -1020.0),
    "k72": (8.9e-12, 0.0, 0.0),
    "k74": (6.5e-13, 0.0, 650.0),
    "k75": (5.6e-12, 0.0, 310.0),
    "k76": (5.8e-12, 0.0, 190.0),
    "k77": (1e-11, 0.0, 0.0),
    "k78": (1.34e16, 0.0, -13330.0),
    "k79": (2e-11, 0.0, 0.0),
    "k80": (1.1e-11, 0.0, 0.0),
    "k81": (1.64e-11, 0.0, -559.0),
    "k85": (1e-11, 0.0, 0.0),
    "k86": (1.15e-12, 0.0, 0.0),
    "k87": (4.8e-12, 0.0, 0.0),
    "k88": (1.3e-13, 0.0, 1040.0),
    "k89": (3e-13, 0.0, 1040.0),
    "k94": (2.8e-12, 0.0, 530.0),
    "k109": (1.66e-12, 0.0, 474.0),
    "k112": (1.2e-14, 0.0, -2630.0),
    "k123": (6.5e-15, 0.0, -1880.0),
    "k125": (2.86e-11, 0.0, 0.0),
    "k146": (3.2e-11, 0.0, 0.0),
    "k147": (2e-11, 0.0, 0.0),
    "k148": (2.2e-11, 0.0, 0.0),
    "k149": (3.7e-11, 0.0, 0.0),
    "k150": (1.23e-14, 0.0, -2013.0),
    "k151": (2.54e-11, 0.0, 410.0),
    "k153": (4.13e-12, 0.0, 452.0),
    "k156": (2e-11, 0.0, 0.0),
    "k157": (8e-18, 0.0, 0.0),
    "k158": (1.86e-11, 0.0, 175.0),
    "k160": (4.32e-15, 0.0, -2016.0),
    "k161": (3.35e-11, 0.0, 0.0),
    "k163": (7.8e-13, 0.0, 0.0),
    "k219": (2e-11, 0.0, 0.0),
    "k221": (1.1e-11, 0.0, 0.0),
    "k222": (1.7e-11, 0.0, 0.0),
    "k223": (2.4e-11, 0.0, 0.0),
    "k234": (1.37e-11, 0.0, 0.0),
    "k235": (1.7e-11, 0.0, 0.0),
    "k8": (2.2e-10, 0.0, 0.0),
    "k36": (2.3e-13, 0.0, 600.0),
    "k36M": (1.7e-33 * M, 0.0, 1000.0),
}
"""A, n and E in A (T/300)^n exp(E/T)."""

PHOTOLYSIS = {
    "J1": (0.00123, 0.6),
    "J2": (0.0002, 1.4),
    "J3": (0.0145, 0.4),
    "J4": (2.2e-05, 0.75),
    "J5": (3e-06, 1.25),
    "J6": (5.4e-05, 0.79),
    "J7": (6.65e-05, 0.6),
    "J8": (1.35e-05, 0.94),
    "J9": (2.43e-05, 0.88),
    "J11": (0.000216, 0.79),
    "J13": (0.0353, 0.081),
    "J14": (0.0894, 0.059),
    "J15": (3.32e-05, 0.57),
    "J16": (2.27e-05, 0.62),
}
"""A and B in A exp(−B/cos θ), θ the angle of the sun from the zenith."""

_DEPOSITION = """
0.5 H2O2 SO2 O3 BURO2H CH2CHR ETRO2H ISNIRH ISNO3H ISRO2H MALO2H MARO2H \
MEKO2H MVKO2H OXYO2H PRRO2H R2OOH RCO3H
0.3 CH3CHO HCHO MEK
0.2 NO2 MAPAN PAN
0.1 NITRAT SA
"""
DEPOSITION = {float(line.split()[0]): tuple(line.split()[1:]) for line in _DEPOSITION.strip().splitlines()}
"""By velocity in cm/s, what leaves to the ground."""

VOC_SHARES = {
    "C2H6": (0.07689, 30.0),
    "NC4H10": (0.41444, 58.0),
    "C2H4": (0.03642, 28.0),
    "C3H6": (0.03827, 42.0),
    "OXYL": (0.24537, 106.0),
    "C2H5OH": (0.13957, 46.0),
}
"""Shares by mass of what is emitted of volatile organic compounds, and molar masses."""

_TABLE = """
J1    O3 -> OP
J2    O3 -> OD
J3    NO2 -> NO + OP
J4    H2O2 -> 2 OH
J5    HNO3 -> NO2 + OH
J6    HCHO -> 2 HO2 + CO
2 J7  GLYOX -> CO + HCHO
J7    HCHO -> CO + H2
J8    CH3CHO -> CO + HO2 + CH3O2
J9    MEK -> C2H5O2 + CH3COO
J11   MGLYOX -> CO + HO2 + CH3COO
J13   NO3 -> NO
J14   NO3 -> NO2 + OP
J15   N2O5 -> NO2 + NO3
J16   BURO2H -> OH + 0.65 MEK + 0.65 HO2 + 0.35 CH3CHO + 0.35 C2H5O2
J16   CH2CCH3 -> MEK + CH2CCH3
J16   CH3O2H -> HCHO + HO2 + OH
J16   ETRO2H -> 1.56 HCHO + HO2 + OH + 0.22 CH3CHO
J16   MALO2H -> HO2 + MGLYOX + GLYOX + OH
J16   MEKO2H -> CH3CHO + CH3COO + OH
J16   OXYO2H -> HO2 + MGLYOX + MAL + OH
J16   PRRO2H -> HCHO + CH3CHO + HO2
J16   R2OOH -> CH3CHO + HO2 + OH
J16   RCO3H -> CH3O2 + OH
k1    OP -> O3
k5    OP + NO -> NO2
k7    OD -> OP
k8    OD -> 2 OH
k11   NO + O3 -> NO2
k12   NO2 + O3 -> NO3
k13   O3 + OH -> HO2
k14   O3 + HO2 -> OH
k15   NO + NO3 -> 2 NO2
k17   NO + HO2 -> NO2 + OH
k19   NO2 + NO3 -> NO + NO2
k20   NO2 + NO3 -> N2O5
k21   NO2 + OH -> HNO3
k26   H2O2 + NO3 -> HO2 + HNO3
k29   N2O5 -> NO2 + NO3
k30   HO2 + OH ->
k31   H2O2 + OH -> HO2
k33   H2 + OH -> HO2
k35   HNO3 + OH -> NO3
k36   2 HO2 -> H2O2
k36M  2 HO2 -> H2O2
k39   SO2 + OH -> HO2 + SA
k40   CH3O2 + SO2 -> HCHO + HO2 + SA
k43   CH3O2H ->
k43   H2O2 ->
k43   HNO3 -> NITRAT
k43   N2O5 -> 2 NITRAT
k59   CH4 + OH -> CH3O2
k60   CH2CCH3 + NO -> NO2 + MEK + HO2
k60   CH3O2 + NO -> NO2 + HCHO + HO2
k60   ETRO2 + NO -> 2 HCHO + NO2 + HO2
k60   ISNIR + NO -> 1.9 NO2 + 0.95 CH3CHO + 0.95 MEK + 0.05 HO2
k60   ISONO3 + NO -> 1.1 NO2 + 0.85 ISNI + 0.8 HO2 + 0.15 HCHO + 0.1 MACR + 0.05 MVK
k60   ISRO2 + NO -> 0.86 NO2 + 0.78 HO2 + 0.74 HCHO + 0.42 MVK + 0.32 MACR + 0.14 ISNI + 0.12 ISRO2
k60   MALO2 + NO -> NO2 + HO2 + MGLYOX + GLYOX
k60   MEKO2 + NO -> NO2 + CH3CHO + CH3COO
k60   MVKO2 + NO -> 0.95 NO2 + 0.95 HO2 + 0.684 CH3CHO + 0.684 CH3COO + 0.266 HCHO + 0.266 MGLYOX + 0.05 ISNI
k60   OXYO2 + NO -> NO2 + HO2 + MGLYOX + MAL
k60   PRRO2 + NO -> NO2 + HCHO + CH3CHO + HO2
k60   SECC4H + NO -> NO2 + 0.65 MEK + 0.65 HO2 + 0.35 CH3CHO + 0.35 C2H5O2
k61   2 CH3O2 -> 2 HCHO + 2 HO2
k62   2 CH3O2 -> HCHO + CH3OH
k63   CH3OH + OH -> HCHO + HO2
k64   C2H5OH + OH -> CH3CHO + HO2
k65   CH3O2 + HO2 -> CH3O2H
k66   HCHO + OH -> CO + HO2
k67   CH3O2H + OH -> HCHO + OH
k68   BURO2H + OH -> SECC4H
k68   CH3O2H + OH -> CH3O2
k68   ETRO2H + OH -> ETRO2
k68   PRRO2H + OH -> PRRO2
k68   R2OOH + OH -> C2H5O2
k68   RCO3H + OH -> CH3COO
k69   HCHO + NO3 -> CO + HO2 + HNO3
k70   CO + OH -> HO2
k71   C2H6 + OH -> C2H5O2
k72   C2H5O2 + NO -> NO2 + CH3CHO + HO2
k74   C2H5O2 + HO2 -> R2OOH
k75   CH3CHO + OH -> CH3COO
k76   BURO2H + OH -> MEK + OH
k76   ETRO2H + OH -> CH3CHO + OH
k76   PRRO2H + OH -> MEK + OH
k76   R2OOH + OH -> CH3CHO + OH
k77   NO2 + CH3COO -> PAN
k77   NO2 + MARO2 -> MAPAN
k78   MAPAN -> NO2 + MARO2
k78   PAN -> NO2 + CH3COO
k79   CH3COO + NO -> NO2 + CH3O2
k79   MARO2 + NO -> NO2 + CH2CCH3
k80   CH3O2 + CH3COO -> HCHO + 0.5 HO2 + 0.5 CH3O2
k81   NC4H10 + OH -> SECC4H
k85   CH2CCH3 + HO2 -> CH2CHR
k85   ETRO2 + HO2 -> ETRO2H
k85   ISNIR + HO2 -> ISNIRH
k85   ISONO3 + HO2 -> ISNO3H
k85   ISRO2 + HO2 -> ISRO2H
k85   MALO2 + HO2 -> MALO2H
k85   MARO2 + HO2 -> MARO2H
k85   MEKO2 + HO2 -> MEKO2H
k85   MVKO2 + HO2 -> MVKO2H
k85   OXYO2 + HO2 -> OXYO2H
k85   PRRO2 + HO2 -> PRRO2H
k85   SECC4H + HO2 -> BURO2H
k86   MEK + OH -> MEKO2
k87   MEKO2H + OH -> MEKO2
k88   CH3COO + HO2 -> RCO3H
k89   CH3COO + HO2 -> O3
k94   2 CH3COO -> 2 CH3O2
k109  C2H4 + OH -> ETRO2
k112  C2H4 + O3 -> HCHO + 0.44 CO + 0.13 H2 + 0.12 HO2
k123  C3H6 + O3 -> 0.5 HCHO + 0.5 CH3CHO + 0.4 CO + 0.31 CH3O2 + 0.28 HO2 + 0.15 OH + 0.07 CH4 + 0.07 H2
k125  C3H6 + OH -> PRRO2
k146  CH2CHR + OH -> CH2CCH3
k147  ISNO3H + OH -> ISONO3
k148  MVKO2H + OH -> MVKO2
k149  ISNIRH + OH -> ISNIR
k149  MARO2H + OH -> MARO2
k150  ISOPRE + O3 -> 0.8 HCHO + 0.67 MACR + 0.55 OH + 0.3 OP + 0.26 MVK + 0.07 C3H6 + 0.06 HO2 + 0.05 CO
k151  ISOPRE + OH -> ISRO2
k153  MVK + OH -> MVKO2
k156  ISRO2H + OH -> ISRO2 + OH
k157  ISRO2H + O3 -> 0.7 HCHO
k158  MACR + OH -> 0.5 MARO2
k160  MVK + O3 -> 0.82 MGLYOX + 0.8 HCHO + 0.2 OP + 0.08 OH + 0.06 HO2 + 0.05 CO + 0.04 CH3CHO
k161  ISNI + OH -> ISNIR
k163  ISOPRE + NO3 -> ISONO3
k219  MAL + OH -> MALO2
k221  GLYOX + OH -> 2 CO + HO2
k222  MGLYOX + OH -> CO + CH3COO
k223  MALO2H + OH -> MALO2
k234  OXYL + OH -> OXYO2
k235  OXYO2H + OH -> OXYO2
"""


def _read(line: str) -> tuple[str, str, float]:
    words = line.split()
    factor = float(words.pop(0)) if words[0].isdigit() else 1.0
    return words[0], " ".join(words[1:]), factor


REACTIONS = tuple(_read(line) for line in _TABLE.strip().splitlines())
"""Rate constant, reaction and by what the rate is multiplied; what is not counted is not balanced."""
