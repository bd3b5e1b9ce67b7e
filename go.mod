module github.com/retune-go/retune

go 1.26
