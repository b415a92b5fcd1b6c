"""What a scanner makes of the ideal image: range, field of view, table, blur, noise, streaks."""
