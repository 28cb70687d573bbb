"""The categories of published data sets, in the order in which published codes number them."""

_YOUTUBE = (
    "airplane ape bear bike bird boat bucket bus camel cat cow crocodile deer dog dolphin duck eagle earless_seal elephant "
    "fish fox frisbee frog giant_panda giraffe hand hat hedgehog horse knife leopard lion lizard monkey motorbike mouse "
    "others owl paddle parachute parrot penguin person plant rabbit raccoon sedan shark sheep sign skateboard snail snake "
    "snowboard squirrel surfboard tennis_racket tiger toilet train truck turtle umbrella whale zebra"
)
YOUTUBE_CATEGORIES = tuple(_YOUTUBE.split())
"""The 65 categories of Ref-YouTube-VOS in alphabetical order; a label is a place in it."""

_DAVIS = (
    "airplane,backpack,ball,bear,bicycle,bird,boat,bottle,box,bus,camel,car,carriage,cat,cellphone,chamaleon,cow,deer,dog,"
    "dolphin,drone,elephant,excavator,fish,goat,golf cart,golf club,grass,guitar,gun,helicopter,horse,hoverboard,kart,key,"
    "kite,koala,leash,lion,lock,mask,microphone,monkey,motorcycle,oar,paper,paraglide,person,pig,pole,potted plant,puck,"
    "rack,rhino,rope,sail,scale,scooter,selfie stick,sheep,skateboard,ski,ski poles,snake,snowboard,stick,stroller,"
    "surfboard,swing,tennis racket,tractor,trailer,train,truck,turtle,varanus,violin,wheelchair"
)
DAVIS_CATEGORIES = tuple(_DAVIS.split(","))
"""The 78 categories of DAVIS 2017 in alphabetical order."""

COCO_CATEGORY_IDS = tuple(n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""The 80 category numbers that COCO uses."""
