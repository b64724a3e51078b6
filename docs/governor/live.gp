# What bench/governor_live.py saw:
#     gnuplot -e "csv='governor-live.csv'" docs/governor/live.gp > live.svg
set terminal svg size 900,760 font "sans,12" background "white"
set datafile separator ","
# The rows of a phase; what lies between is a gap.
phase(name) = sprintf("< awk -F, '{print $1 == \"%s\" ? $0 : \"\"}' %s", name, csv)
set multiplot layout 3,1
set lmargin 11
set rmargin 9
set key above
set offsets graph 0, 0, 0.1, 0.1
set ylabel "card, C"
plot phase("idle") using 2:3 with lines lc "#888888" title "idle", \
     phase("cool") using 2:3 with lines lc "#888888" notitle, \
     phase("none") using 2:3 with lines lc "#c0392b" title "no governor", \
     phase("ramp") using 2:3 with lines lw 2 lc "#2980b9" title "ramp", \
     phase("pi") using 2:3 with lines lw 2 lc "#27ae60" title "pi", \
     csv every ::1 using 2:($3 + $6) with lines dt 2 lc "#555555" title "target", \
     csv every ::1 using 2:16 with points pt 7 ps 0.2 lc "#555555" title "nvidia-smi"
set ylabel "watts"
plot csv every ::1 using 2:(valid(8) ? $8 : $7) with lines lc "#8e44ad" title "sensor", \
     csv every ::1 using 2:20 with points pt 7 ps 0.2 lc "#555555" title "nvidia-smi"
set ylabel "tokens/s"
set xlabel "s"
set y2tics
set y2label "duty"
set y2range [0:1.05]
plot csv every ::1 using 2:14 with lines lc "#2980b9" title "tokens/s", \
     csv every ::1 using 2:15 axes x1y2 with points pt 7 ps 0.2 lc "#888888" title "share of the second that steps took", \
     csv every ::1 using 2:12 axes x1y2 with lines lc "#27ae60" title "duty"
unset multiplot
