"""The classes of the published datasets, in the order of their labels, each with its number of clips."""

from __future__ import annotations

from collections.abc import Mapping

_UCF101 = """
ApplyEyeMakeup:145 ApplyLipstick:114 Archery:145 BabyCrawling:132 BalanceBeam:108 BandMarching:155 BaseballPitch:150
Basketball:134 BasketballDunk:131 BenchPress:160 Biking:134 Billiards:150 BlowDryHair:131 BlowingCandles:109
BodyWeightSquats:112 Bowling:155 BoxingPunchingBag:163 BoxingSpeedBag:134 BreastStroke:101 BrushingTeeth:131
CleanAndJerk:112 CliffDiving:138 CricketBowling:139 CricketShot:167 CuttingInKitchen:110 Diving:150 Drumming:161
Fencing:111 FieldHockeyPenalty:126 FloorGymnastics:125 FrisbeeCatch:126 FrontCrawl:137 GolfSwing:139 Haircut:130
Hammering:140 HammerThrow:150 HandstandPushups:128 HandstandWalking:111 HeadMassage:147 HighJump:123 HorseRace:124
HorseRiding:164 HulaHoop:125 IceDancing:158 JavelinThrow:117 JugglingBalls:121 JumpingJack:123 JumpRope:144
Kayaking:141 Knitting:123 LongJump:131 Lunges:127 MilitaryParade:125 Mixing:136 MoppingFloor:110 Nunchucks:132
ParallelBars:114 PizzaTossing:113 PlayingCello:164 PlayingDaf:151 PlayingDhol:164 PlayingFlute:155 PlayingGuitar:160
PlayingPiano:105 PlayingSitar:157 PlayingTabla:111 PlayingViolin:100 PoleVault:149 PommelHorse:123 PullUps:100
Punch:160 PushUps:102 Rafting:111 RockClimbingIndoor:144 RopeClimbing:119 Rowing:137 SalsaSpin:133 ShavingBeard:161
Shotput:144 SkateBoarding:120 Skiing:135 Skijet:100 SkyDiving:110 SoccerJuggling:147 SoccerPenalty:137
StillRings:112 SumoWrestling:116 Surfing:126 Swing:131 TableTennisShot:140 TaiChi:100 TennisSwing:166
ThrowDiscus:130 TrampolineJumping:119 Typing:136 UnevenBars:104 VolleyballSpiking:116 WalkingWithDog:123
WallPushups:130 WritingOnBoard:152 YoYo:128
"""

_HMDB51 = """
brush_hair:107 cartwheel:107 catch:102 chew:109 clap:130 climb:108 climb_stairs:112 dive:127 draw_sword:103
dribble:145 drink:164 eat:108 fall_floor:136 fencing:116 flic_flac:107 golf:105 handstand:113 hit:127 hug:118
jump:151 kick:130 kick_ball:128 kiss:102 laugh:128 pick:106 pour:106 pullup:104 punch:126 push:116 pushup:103
ride_bike:103 ride_horse:116 run:232 shake_hands:162 shoot_ball:131 shoot_bow:112 shoot_gun:103 sit:142 situp:105
smile:102 smoke:109 somersault:140 stand:154 swing_baseball:143 sword:127 sword_exercise:127 talk:120 throw:102
turn:240 walk:548 wave:104
"""


def _counts(text: str) -> Mapping[str, int]:
    return {name: int(count) for name, _, count in (item.partition(":") for item in text.split())}


UCF101_CLIPS = _counts(_UCF101)
"""Clips of each of the 101 classes, in the order of classInd.txt: alphabetical, whatever the case; 13,320 together."""

HMDB51_CLIPS = _counts(_HMDB51)
"""Clips of each of the 51 classes, in alphabetical order; 6,766 together."""

UCF101_CLASSES = tuple(UCF101_CLIPS)
HMDB51_CLASSES = tuple(HMDB51_CLIPS)
