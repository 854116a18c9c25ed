# %% [markdown]
# # Split learning, a course in lessons
#
# One network, trained on two machines: a device that has the data and a server that has the power. You cut it, see what crosses the wire, make that
# smaller, and measure what it costs. Every number in these lessons is computed or counted while you look: real servers, real bytes, real pictures.
#
# | Lesson | What you learn | Minutes |
# |---|---|---|
# | [00 · Split learning in ten minutes](00_quickstart.ipynb) | cut a network; two processes; four messages; the first codec | 10 |
# | [01 · Where to cut](01_where_to_cut.ipynb) | the explorer; bytes, work and seconds at every cut | 15 |
# | [02 · Codecs](02_codecs.ipynb) | what a codec loses; error is not harm; a codec of your own | 20 |
# | [03 · What crosses the wire](03_what_crosses.ipynb) | what is in a frame, and who can read it | 20 |
# | [04 · The gradient across a cut](04_gradient_across_a_cut.ipynb) | the two ways back, and what rounding does to one of them | 20 |
# | [05 · Does accuracy survive?](05_does_accuracy_survive.ipynb) | seeds, spread, and honest comparisons | 20 |
# | [06 · Single, double, none](06_who_sees_what.ipynb) | who sees what, and what it costs | 20 |
# | [07 · Your network, your codec, your data](07_your_own.ipynb) | bring your own, and a project | 30 |
# | [08 · The best cut](08_best_cut.ipynb) | seconds predicted for every cut, the best one computed, and checked on a real link | 25 |
# | [09 · The paper, checked](09_the_paper.ipynb) | the paper's tables made again, and where an explanation must be dropped | 30 |
#
# Start with 00. After it, 01 to 06 stand alone; 07 is easier after 02, 08 after 01, and 09 after 04.
#
# ## How to go through a lesson
#
# - **Run a cell** with Shift+Enter, in order from the top. If something looks wrong, choose *Run → Run All Above Selected Cell*.
# - At every **Predict**, make up your mind before you run the next cell. **Explain** says what was seen and why.
# - An **Exercise** is a cell that begins with `answer = ...`. Put your answer in place of the dots and run it. `se.teach.check` says
#   whether it is right; if not, it gives a hint. Try as often as you like.
# - Answers, and the reasons for them, are in the folder [solutions](solutions), a notebook for each lesson.
# - These are your copies: change what you like. Delete one and start `spliteasy lab` again to have it back as it was.
#
# ## What the lessons need
#
# No internet, no GPU and no downloads: the data come with scikit-learn (digits, two photographs, a table). Each lesson computes for less
# than a minute on two cores, with some 2 GB of memory. Where a lesson starts a server, it is a process on this machine that listens on
# loopback only and stops with the lesson.
#
# Those who teach with it find a two-hour plan, common confusions and a way to grade in `docs/teaching.md` of the repository.
