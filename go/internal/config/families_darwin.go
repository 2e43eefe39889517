package config

func CheckFamilies() error { return nil }
