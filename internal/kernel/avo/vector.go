package main

func vector(u *unit) {}
