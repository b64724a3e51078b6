# The ramp's picture of docs/governor.md:
#     gnuplot docs/governor/law.gp > docs/governor/law.svg
set terminal svg size 700,340 font "sans,12" background "white"
ramp(x) = x <= 70 ? 1 : x >= 75 ? 50 : 1 + 49 * (x - 70) / 5
set xrange [66:78]
set yrange [0:110]
set xlabel "card, C; the target is 75 C"
set ylabel "ms of rest after 50 ms of work"
set samples 1201
set key top left
set arrow from 75,50 to 75,110 dt 2 lc "#c0392b"
set label "above the target:" at 75.2,80 tc "#c0392b"
set label "doubles each second" at 75.2,70 tc "#c0392b"
set label "up to 450 ms" at 75.2,60 tc "#c0392b"
plot (x > 75 ? 1 / 0 : ramp(x)) with lines lw 2 lc "#2980b9" title "ramp", \
     "-" using 1:2 with points pt 7 lc "#2980b9" title "73 C: 30.4 ms"
73 30.4
e
