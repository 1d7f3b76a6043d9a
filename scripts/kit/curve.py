"""What a process uses over time: samples, their picture, and the slope of its memory with its uncertainty."""
import math
import os

COLUMNS = ["at_s", "pid", "rss_kb", "fds", "threads", "cpu_percent", "journal_bytes", "sessions", "consoles"]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def usage(pid):
    """Resident kB, descriptors, threads and processor seconds of a process; None when it is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            status = dict(line.split(":", 1) for line in file if ":" in line)
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        return int(status["VmRSS"].split()[0]), len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]), cpu_s
    except (OSError, KeyError):
        return None


def picture(title, points, width=100, height=12, unit=""):
    """One curve in letters; `points`: (seconds, value)."""
    if len(points) < 2:
        return f"{title}: too few samples"
    start, end = points[0][0], points[-1][0]
    low, high = min(value for _, value in points), max(value for _, value in points)
    columns = [[] for _ in range(width)]
    for at, value in points:
        columns[min(width - 1, int((at - start) / max(end - start, 1e-9) * width))].append(value)
    level = lambda value: round((value - low) / max(high - low, 1e-9) * (height - 1))
    rows = [[" "] * width for _ in range(height)]
    for column, values in enumerate(columns):
        for row in range(level(min(values)), level(max(values)) + 1) if values else ():
            rows[height - 1 - row][column] = "*"
    lines = [f"{title}  ({low:,.0f} to {high:,.0f} {unit})"]
    for index, row in enumerate(rows):
        value = high - (high - low) * index / (height - 1)
        lines.append(f"{value:>12,.0f} |{''.join(row)}")
    lines.append(" " * 13 + "+" + "-" * width)
    lines.append(" " * 14 + f"{start / 60:.1f} min" + f"{end / 60:.1f} min".rjust(width - len(f"{start / 60:.1f} min")))
    return "\n".join(lines)


def slope(points, block_s=30):
    """Least squares over means of half a minute: (slope a minute, half of the 95 % band, mean), or None when there is too
    little. What lies next to each other is alike, so that the band is widened by the residuals' correlation."""
    if not points:
        return None
    blocks = {}
    for at, value in points:
        blocks.setdefault(int(at // block_s), []).append(value)
    xs = [(block + 0.5) * block_s / 60 for block in sorted(blocks)]
    ys = [sum(blocks[block]) / len(blocks[block]) for block in sorted(blocks)]
    count = len(xs)
    if count < 8:
        return None
    mean_x, mean_y = sum(xs) / count, sum(ys) / count
    spread = sum((x - mean_x) ** 2 for x in xs)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / spread
    rest = [y - mean_y - rise * (x - mean_x) for x, y in zip(xs, ys)]
    square = sum(value * value for value in rest)
    alike = sum(one * two for one, two in zip(rest, rest[1:])) / square if square else 0
    alike = min(max(alike, 0), 0.9)
    error = math.sqrt(square / (count - 2) / spread) * math.sqrt((1 + alike) / (1 - alike))
    return rise, 2.1 * error, mean_y
