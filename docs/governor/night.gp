# The night's picture of docs/governor.md:
#     octoflow-bench governor --plant deep_hysteresis --work compute_bound --csv night.csv
#     gnuplot -e "csv='night.csv'" docs/governor/night.gp > docs/governor/night.svg
set terminal svg size 900,640 font "sans,12" background "white"
set datafile separator ","
law(name) = sprintf("< awk -F, '$3 == \"%s\" && $4 >= 3.9 && $4 <= 4.3 && NR %% 3 == 0' %s", name, csv)
set xrange [3.9:4.3]
set multiplot layout 2,1
set lmargin 11
set rmargin 3
set key above
set ylabel "card, C"
set yrange [75:89]
plot law("none") using 4:6 with lines lc "#c0392b" title "no governor", \
     law("ramp") using 4:6 with lines lc "#2980b9" title "ramp", \
     law("pi") using 4:6 with lines lw 2 lc "#27ae60" title "pi", \
     84 with lines lw 1 dt 2 lc "#555555" title "target"
unset key
set ylabel "tokens/s, share of full"
set yrange [0.2:1.05]
set xlabel "hour of the night"
plot law("none") using 4:12 with lines lc "#c0392b" title "no governor", \
     law("ramp") using 4:12 with lines lc "#2980b9" title "ramp", \
     law("pi") using 4:12 with lines lw 2 lc "#27ae60" title "pi"
unset multiplot
